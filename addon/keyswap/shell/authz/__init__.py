"""Forward authorization: the gate as a proxy asks it, beside mitmproxy (CONTRACT §11).

authorizer  a question → what the proxy is told
protocol    questions over HTTP/1.1, as they come and in turn
listener    where it listens, and who may ask
support     what of a policy cannot be had behind another proxy
"""
