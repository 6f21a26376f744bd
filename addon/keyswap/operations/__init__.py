"""WHAT is called: the operation that a request's target belongs to, what it requires, and whether the request fits it.

path_opt_ins    what an operation lets through of a path
template        `METHOD /template`                            router        target → template
catalogue       all operations, with what the policy says     requirements  the permissions that one requires
lookalikes      what a careless backend takes a path for      rivals        the other operation it may serve then
slugs           permissions as they are written               findings      what is wrong with a document or policy

openapi         documents: fetched, parsed, referenced, linted
validate        requests and responses beside the document's schemas
"""
