// The same API as an Express application, with its extended query and form reader (qs) and multer.
import express from "express";
import multer from "multer";

const app = express();
app.set("query parser", "extended");
const upload = multer();
const seen = (handler, values = {}) => ({ handler, values });

app.get("/users/@me", (_, response) => response.json(seen("GET /users/@me")));
app.get("/users/:id", ({ params }, response) => response.json(seen("GET /users/{id}", params)));
app.post("/users/:id\\:disable", ({ params }, response) => response.json(seen("POST /users/{id}:disable", params)));
app.post("/users/:id", ({ params }, response) => response.json(seen("POST /users/{id}", params)));
app.get("/items/:number", ({ params }, response) => response.json(seen("GET /items/{number}", params)));
app.get("/files/:name/secret", ({ params }, response) => response.json(seen("GET /files/{name}/secret", params)));
app.get("/files/:name/:part", ({ params }, response) => response.json(seen("GET /files/{name}/{part}", params)));
app.get("/search", ({ query: { limit, tag } }, response) =>
  response.json(seen("GET /search", { limit, tag: typeof tag === "string" ? [tag] : tag })));
app.get("/charge", (request, response) => response.json(seen("GET /charge", { amount: request.get("x-amount") })));
app.post("/orders", express.json({ strict: false }), ({ body }, response) =>
  response.json(seen("POST /orders", { amount: body?.amount, note: body?.note })));
app.post("/forms", express.urlencoded({ extended: true }), ({ body }, response) =>
  response.json(seen("POST /forms", { amount: body?.amount })));
app.post("/uploads", upload.any(), ({ body, files }, response) =>
  response.json(seen("POST /uploads", { amount: body?.amount, file: files?.[0]?.originalname })));
app.use((_, response) => response.status(404).json({}));
app.use((error, _request, response, _next) => response.status(error.status ?? 400).json({ error: String(error) }));
app.listen(Number(process.argv[2]), "127.0.0.1");
