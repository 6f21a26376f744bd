"""Another data path than mitmproxy: an engine in front of the gate, configured and run by the gateway (CONTRACT §11).

needs          what policies need of an engine: routes, bounds
run_folder     the files and sockets that an engine and its workers share
envoy_program  which Envoy there is
envoy_config   its configuration: listener, clusters, how it starts
envoy_filters  its filters: the questions, and what is noted of the exchange
envoy_routes   where an admitted request goes
local_replies  what Envoy answers by itself, in the gateway's words
envoy_admin    Envoy's own answers: is it ready, has it taken a configuration
proxy_protocol how it says for which caller it has connected to a proxy behind it
ends_pipe      the pipes by which an engine tells of ends
envoy_files    the files of configuration that it follows
envoy          its process, from the start to the end
edge           what a proxy that others run needs to know of a policy
envoy_edge     Envoy's configuration for those who run it in front of `keyswap authz`
nginx          nginx' configuration, where it asks `keyswap authz`
nginx_questions what it sends to the authorizer
nginx_refusals what nginx answers to refused requests
nginx_words    how its configuration is written
caddy          Caddy's configuration
"""
