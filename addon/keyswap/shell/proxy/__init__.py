"""One request over mitmproxy.

addon        the gate's options, start and end          hooks           mitmproxy's hooks, by what they are about
handler      what happens to a request's head           bodies          what happens to a body that decides
responses    what happens to a response                 listener        what connections are told when they ask
flow_writer  decisions, written onto flows              response_check  responses beside the document's schemas
options      mitmproxy's options, set or forbidden      script          the hooks of `mitmdump -s`
webhook      WorkOS' webhook on the gateway's listener
"""
