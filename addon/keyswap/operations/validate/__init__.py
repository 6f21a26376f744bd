"""Whether a request or response is as the document's schemas say.

step                    what the gate asks                    validation           who answers
messages, phrases       what is wrong, in words
inputs                  parameters as they were sent          bodies, multipart    JSON, forms and `multipart`
styles, coerce          texts → values of their schemas       escapes              of URLs and forms
schema                  schemas at their places               schema_check         judged at load
schema_rewriting        schemas as the engine takes them      keyword_writers      keyword by keyword
engine                  judges values                         budget               how much validation may cost
openapi_core_document   what openapi-core is given            openapi_core_adapter what replaces its parts
openapi_core_schemas    compiled, found by their places
patterns, ecma          regular expressions                   formats              those that are judged
lenient_names           names as backends compare them
"""
