"""The processes of `keyswap serve`: one that listens, and workers that answer.

supervisor    the process that listens                    pool            its workers, as one
worker        one worker                                  worker_process  a worker, as the supervisor sees it
ipc           what the two tell each other                worker_logs     what workers say to people, once
masters       mitmproxy with the gate in it               listen_socket   the socket that they share
merge_status  what several workers say, as one answer     settings        what `serve` was told
systemd       what the service manager is told
"""
