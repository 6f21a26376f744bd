"""One request over mitmproxy.

addon        mitmproxy's hooks                          script          the hooks of `mitmdump -s`
flow_writer  decisions, written onto flows              wellformed      what can be forwarded with one reading
options      mitmproxy's options, set or forbidden      response_check  responses beside the document's schemas
webhook      WorkOS' webhook on the gateway's listener
"""
