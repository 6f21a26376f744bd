"""`init`: a first policy for an API, with what there is to decide in comments.

Law: what is written is a policy that loads; no file is written over.
"""

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from keyswap import policy as policies
from keyswap.cli.output import Setting, common, program, write_new
from keyswap.composition.build_gate import catalogue
from keyswap.model import Operation
from keyswap.operations.catalogue import OperationCatalogue
from keyswap.operations.findings import DocumentError
from keyswap.operations.openapi import lint
from keyswap.operations.openapi.document_cache import Documents
from keyswap.operations.openapi.proposals import may_be_public, slug
from keyswap.policy import parse_upstream


@click.command()
@click.option("--spec", metavar="FILE|URL", help="The API's OpenAPI document.")
@click.option("--upstream", metavar="URL", help="The backend; where the document's URL leads, if that is left out.")
@click.option("--issuer", default="http://127.0.0.1:8080", show_default=True, help="The gateway's public URL.")
@click.option(
    "--source", type=click.Choice(["sqlite", "workos"]), default="sqlite", show_default=True, help="What knows keys."
)
@click.option("-o", "--output", metavar="FILE", help="Where to write it; - is standard output [--policy].")
@common
def init(
    setting: Setting, spec: str | None, upstream: str | None, issuer: str, source: str, output: str | None
) -> None:
    """Write a commented policy for an API."""
    file = Path(output) if output and output != "-" else setting.policy
    folder = Path.cwd() if output == "-" else file.parent
    if upstream is None and spec is None:
        raise click.UsageError("name the backend with --upstream URL, its document with --spec, or both")
    if upstream is None and str(spec).startswith(("http://", "https://")):
        upstream = "{0.scheme}://{0.netloc}".format(urlsplit(str(spec)))
    named = f"upstream: {upstream}" if upstream else "# upstream: http://127.0.0.1:9000   # or `serve --upstream URL`"
    text = TEMPLATE.format(issuer=issuer, upstream=named, source=source)
    if source == "workos":
        text += WORKOS
    if spec is not None:
        text += _document(spec, folder, text)
    policies.parse(text.encode(), "the new policy")
    if output == "-":
        sys.stdout.write(text)
        return
    write_new(file, text)
    setting.print(
        {"policy": str(file)},
        f"wrote {file}",
        f"now: {program()} check --policy {file}",
        f"then: {program()} serve --policy {file}" + ("" if upstream else " --upstream URL"),
    )


def _document(spec: str, folder: Path, head: str) -> str:
    """The `openapi` section, and what its operations require, or could, as comments."""
    if not spec.startswith(("http://", "https://")):
        spec = os.path.relpath(spec, folder)
    begin = f"\nopenapi:\n  spec: {_quoted(spec)}\n"
    policy = policies.parse((head + begin).encode(), "the new policy")
    operations = catalogue(policy, Documents(None), folder, parse_upstream(policy.upstream or "http://unknown.invalid"))
    assert operations is not None
    if operations.errors:
        raise DocumentError(operations.errors[0], len(operations.errors) - 1)
    return begin + SETTINGS.format(lists=_lists(operations)) + "\n".join(_lines(operations)) + "\n"


def _lists(operations: OperationCatalogue) -> str:
    """What to do about alternatives of which one asks for less."""
    weaker = sum(finding.code == "weaker-alternative" for finding in lint.errors(operations))
    if not weaker:
        return "# security_lists: any       # all: every alternative of an operation's `security` is required"
    return (
        f"# security_lists: all       # {weaker} operations have an alternative that asks for less than another: with\n"
        "                              # FastAPI's dependencies all are meant; take the # away, then `keyswap check`"
    )


def _lines(operations: OperationCatalogue) -> list[str]:
    every = [entry.operation for entry in operations.entries]
    width = min(max((len(operation.name) for operation in every), default=0), 48)
    required = [one for one in every if one.public or one.require]
    free = [one for one in every if not (one.public or one.require)]
    public = [one for one in free if may_be_public(one)]
    lines = ["# What the document requires:"] if required else []
    lines += [f"#   {operation.name:<{width}}  {lint.requirement_text(operation)}" for operation in required]
    if free:
        lines += [
            "# These require a valid credential alone. Take the # away from `operations:` and what should be in force:"
        ]
        lines += ["#operations:"]
        lines += [_entry(operation, width, "public: true") for operation in public]
        lines += [_entry(one, width, f'require: ["{slug(one)}"]') for one in free if one not in public]
    return lines


def _entry(operation: Operation, width: int, entry: str) -> str:
    name = _quoted(operation.name) + ","
    return f"#  - {{match: {name:<{width + 3}} {entry}}}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


TEMPLATE = """\
# A keyswap policy. Every field with its default: policies/reference.yaml. Unknown fields are errors.
version: 1
issuer: {issuer}   # the `iss` of minted tokens; the backend finds the key set at <issuer>/.well-known/jwks.json
{upstream}
# audience: my-api               # carried as `aud` by minted tokens; the backend should then require it

api_keys:
  prefix: ksw                    # our keys begin with ksw_live_ or ksw_test_
  source: {source}
  read_from:                     # all are looked at; two different credentials are refused
    - {{header: authorization, scheme: Bearer}}
    - {{header: x-api-key}}

tokens:
  algorithm: RS256               # RS256 | ES256 | EdDSA
  ttl: 120s                      # a revoked key's last token dies after at most this long
"""

WORKOS = """
workos:
  api_key_env: WORKOS_API_KEY    # the environment variable with the secret key of your WorkOS environment
  # client_id: client_...        # its client id, as the dashboard shows it
# sessions:                      # its users' sessions beside API keys: the backend gets one kind of JWT for both
#   - {kind: authkit, issuers: ["https://api.workos.com/user_management/client_..."]}
#   - {kind: connect, issuers: ["https://YOUR-NAME.authkit.app"]}   # OAuth applications and machine-to-machine clients
"""

SETTINGS = """\
  undocumented: refuse           # authenticated: paths outside the document need a valid credential alone
  default_require: none          # deny-unsafe | deny: close operations that require no permission
  {lists}
  # validate: {{requests: shadow}} # parameters and bodies: shadow logs, enforce refuses
mode: {{permissions: enforce}}     # shadow: logged as it would have been, and admitted

"""
