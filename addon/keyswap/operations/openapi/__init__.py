"""OpenAPI documents: where they come from, what they say of each operation, and what is wrong with them.

fetching    from files and URLs         parsing     text → plain data
references  all that `$ref`s lead to    servers     where the paths begin
document    what it says of each operation
lint        what `check` says of it     agreement   whether openapi-core routes as the gateway does
proposals   what `init` proposes
"""
