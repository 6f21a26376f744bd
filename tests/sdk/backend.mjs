// A backend with one configuration: it verifies every caller's token with jose, and answers with what the token says.

import { createServer } from "node:http";
import { createRemoteJWKSet, jwtVerify } from "jose";

const { PORT, JWKS_URL, ISSUER, ALGORITHM, AUDIENCE } = process.env;
const keys = createRemoteJWKSet(new URL(JWKS_URL));
const expected = { issuer: ISSUER, algorithms: [ALGORITHM], ...(AUDIENCE ? { audience: AUDIENCE } : {}) };

async function answer(request) {
  const token = (request.headers.authorization ?? "").replace(/^Bearer /, "");
  try {
    const { payload } = await jwtVerify(token, keys, expected);
    return [200, { payload, token }];
  } catch (error) {
    return [401, { error: `${error.code}: ${error.message}` }];
  }
}

createServer(async (request, response) => {
  const [status, said] = await answer(request);
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(said));
}).listen(Number(PORT), "127.0.0.1");
