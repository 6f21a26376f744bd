"""OpenAPI documents: where they come from, what they say of each operation, and what is wrong with them.

document_cache   from files and URLs            parsing      text → plain data
http_client      what a URL answers             kept_copies  the last good ones, on disk
document         what a document says           references   all that `$ref`s lead to
document_reader  plain data → those values      parameters   those of one operation
servers          where the paths begin          lint, lint_parameters  what `check` says of a document
event_streams    which operations answer with events
agreement        whether openapi-core routes as the gateway does
proposals        what `init` proposes
"""
