"""The processes of `keyswap serve` and `keyswap authz`: one that listens, and workers that answer.

supervisor    the process that listens, and its workers' lives   workers_as_one  the workers, answering as one gateway
worker        the program of one worker of `serve`               worker_process  a worker, as the supervisor sees it
authz_worker  that of `authz`                                    worker_life     what both do alike
ipc           messages between supervisor and worker             worker_logs     the workers' log lines, without repeats
masters       mitmproxy with the gate in it                      listen_socket   the socket that they share
merge_status  the status of several workers as one               settings        the options of `serve`
front         what stands before the workers                 with_envoy      the supervisor with Envoy before it
engine_worker what a worker does for an engine beside answering
systemd       notifications to the service manager               shared_listener a listener on it
"""
