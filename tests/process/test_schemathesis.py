"""schemathesis, in an environment of its own, against a real application through the gateway with validation enforced."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import ROOT, Gateway, Home, eventually
from keyswap.model import Code
from keyswap.refusals import status_of
from served import EVERYTHING, Application

VERSION = "schemathesis==4.32.5"
ENVIRONMENT = ROOT / ".bench" / VERSION.replace("==", "-")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
OWN = [code for code in Code if status_of(code) < 500]


def schemathesis() -> Path:
    """Its command; the test is skipped, and says so, where it cannot be installed."""
    command = ENVIRONMENT / "bin" / "schemathesis"
    if not command.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True, capture_output=True)
            pip = [str(ENVIRONMENT / "bin" / "pip"), "install", "--quiet", VERSION]
            subprocess.run(pip, check=True, capture_output=True, timeout=180)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"{VERSION} cannot be installed here: {type(error).__name__}")
    return command


def with_own_answers(document: dict[str, Any]) -> dict[str, Any]:
    """The application's document, and what the gateway may answer in its place: the statuses and codes of its contract."""
    for item in document["paths"].values():
        for operation in item.values():
            for code in OWN:
                response = operation["responses"].setdefault(str(status_of(code)), {"description": "the gateway's"})
                content = response.setdefault("content", {}).setdefault("application/problem+json", {})
                schema = content.setdefault(
                    "schema", {"type": "object", "required": ["type", "status", "code", "request_id"]}
                )
                codes = schema.setdefault("properties", {}).setdefault("code", {"type": "string", "enum": []})
                codes["enum"].append(code.value)
    return document


@pytest.mark.slow
def test_the_gateway_gives_no_undocumented_answer(tmp_path: Path) -> None:
    """Whatever is generated from the document, no 5xx comes from the gateway and no answer of its own is undocumented."""
    command, application = schemathesis(), Application()
    home = Home(tmp_path, application.url)
    try:
        text = eventually("the application answers", application.document)
        document = tmp_path / "document.json"
        document.write_text(json.dumps(with_own_answers(json.loads(text))))
        home.write_policy(f"openapi: {{spec: {application.url}/openapi.json, validate: {{requests: enforce}}}}\n")
        gateway = Gateway(home).ready()
        _, value = home.key(permissions=EVERYTHING)
        words = ["run", str(document), "--url", gateway.url, "-H", f"Authorization: Bearer {value}", "--checks", CHECKS]
        words += ["--phases", "examples,coverage,fuzzing", "--max-examples", "40", "--seed", "1", "--no-color"]
        words += ["--generation-deterministic", "--continue-on-failure", "--warnings", "off"]
        done = subprocess.run([str(command), *words], capture_output=True, text=True, timeout=300, cwd=tmp_path)
        output = gateway.stop()
    finally:
        application.stop()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"at"')]
    assert len(lines) > 500 and {line["code"] for line in lines} >= {None, "invalid-request"}
    assert not [line for line in lines if line["code"] and (line["status"] or 0) >= 500]
