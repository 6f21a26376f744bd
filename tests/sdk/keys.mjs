// What a team does with WorkOS' Node SDK, here against the admin listener: only the host is another. Its backend, which
// stands behind the gateway, verifies tokens with jose and the key set at the SDK's own URL.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { ConflictException, NotFoundException, UnprocessableEntityException, WorkOS } from "@workos-inc/node";
import { createRemoteJWKSet, jwtVerify } from "jose";

const { TOKEN, BASE_URL, GATEWAY, BACKEND_PORT, ISSUER } = process.env;
const base = new URL(BASE_URL);
const workos = new WorkOS(TOKEN, {
  clientId: "client_1", apiHostname: base.hostname, port: Number(base.port), https: false,
});

const keys = createRemoteJWKSet(new URL(workos.userManagement.getJwksUrl("client_1")));
const backend = createServer(async (request, response) => {
  try {
    const token = request.headers.authorization.slice("Bearer ".length);
    const { payload } = await jwtVerify(token, keys, { issuer: ISSUER });
    response.end(JSON.stringify(payload));
  } catch (error) {
    response.writeHead(500).end(String(error));
  }
});
await new Promise((listening) => backend.listen(Number(BACKEND_PORT), "127.0.0.1", listening));

const gateway = (key) => fetch(GATEWAY, { headers: { Authorization: `Bearer ${key}` } });
const expire = async (id, body) => (await workos.post(`/api_keys/${id}/expire`, body)).data; // no method of its own yet
const valid = async (value) => (await workos.apiKeys.createValidation({ value })).apiKey;

for (const owner of ["organization", "user"]) {
  const made = [];
  for (let number = 0; number < 25; number++) {
    const named = { name: `${owner} ${number}`, permissions: ["posts:read", `n:${number}`], organizationId: "org_js" };
    made.push(await (owner === "user"
      ? workos.userManagement.createUserApiKey("user_js", named)
      : workos.apiKeys.createOrganizationApiKey(named)));
  }
  const list = (more) => owner === "user"
    ? workos.userManagement.listUserApiKeys("user_js", { organizationId: "org_js", ...more })
    : workos.apiKeys.listOrganizationApiKeys({ organizationId: "org_js", ...more });
  const expected = made.map((key) => key.id).sort().reverse();
  assert.deepEqual((await (await list()).autoPagination()).map((key) => key.id), expected);
  const walked = [];
  for (let after; ; ) {
    const page = await list({ limit: 7, ...(after ? { after } : {}) });
    walked.push(...page.data.map((key) => key.id));
    if (!(after = page.listMetadata.after)) break;
  }
  assert.deepEqual(walked, expected);

  const [key, other] = made;
  assert.equal(key.owner.type, owner);
  const answered = await gateway(key.value);
  assert.equal(answered.status, 200, await answered.clone().text());
  const claims = await answered.json();
  assert.equal(claims.org_id, "org_js");
  assert.deepEqual(claims.permissions, ["posts:read", "n:0"]);
  const found = await valid(key.value);
  assert.deepEqual([found.id, found.owner.type], [key.id, owner]);
  assert.equal((await expire(key.id, { expires_at: "2099-01-01T00:00:00Z" })).expires_at, "2099-01-01T00:00:00.000Z");
  assert.equal((await expire(key.id, { expires_at: null })).expires_at, null);
  assert.equal((await gateway(key.value)).status, 200);
  await expire(key.id, {});
  assert.equal((await gateway(key.value)).status, 401);
  assert.equal(await valid(key.value), null);
  await assert.rejects(expire(key.id, {}), (error) =>
    error instanceof ConflictException && error.status === 409 && /expired already/.test(error.message));
  await workos.apiKeys.deleteApiKey(other.id);
  assert.equal((await gateway(other.value)).status, 401);
  assert.equal(await valid(other.value), null);
  await assert.rejects(workos.apiKeys.deleteApiKey(other.id), NotFoundException);
}
await assert.rejects(
  workos.apiKeys.createOrganizationApiKey({ organizationId: "org_js", name: "" }), UnprocessableEntityException);
const permission = await workos.authorization.createPermission({ slug: "js:read", name: "Read" });
assert.equal(permission.slug, "js:read");
assert.ok((await workos.authorization.listPermissions()).data.some((one) => one.slug === "js:read"));
backend.close();
backend.closeAllConnections();
console.log("done");
