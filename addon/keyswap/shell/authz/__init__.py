"""Forward authorization: the gate as a proxy asks it, beside mitmproxy (CONTRACT §11).

authorizer  a question → what the proxy is told
protocol    questions over HTTP/1.1, as they come and in turn
listener    where it listens, and who may ask
support     what of a policy cannot be had behind another proxy
reading     what is read in the head of a request that is asked about

For an engine that the gateway runs itself (`shell.engine`):

engine_answers  its questions → what it is told
engine_needs    what a policy needs of it
places_journal  which of them hold places in flight, for the worker that comes after
response_needs  which requests a proxy behind it carries
exchanges       requests that were admitted, until it tells of their ends
"""
