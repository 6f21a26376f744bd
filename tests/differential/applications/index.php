<?php
// The same API in PHP, routed by the decoded path.
function seen(string $handler, array $values = []): void {
    header('Content-Type: application/json');
    echo json_encode(['handler' => $handler, 'values' => (object) array_filter($values, fn($value) => $value !== null)]);
    exit;
}

$path = rawurldecode(explode('?', $_SERVER['REQUEST_URI'])[0]);
$method = $_SERVER['REQUEST_METHOD'];
$routes = [
    ['GET', '~^/users/@me$~', 'GET /users/@me', []],
    ['GET', '~^/users/(?<id>[^/]+)$~', 'GET /users/{id}', ['id']],
    ['POST', '~^/users/(?<id>[^/]+):disable$~', 'POST /users/{id}:disable', ['id']],
    ['POST', '~^/users/(?<id>[^/]+)$~', 'POST /users/{id}', ['id']],
    ['GET', '~^/items/(?<number>[^/]+)$~', 'GET /items/{number}', ['number']],
    ['GET', '~^/files/(?<name>[^/]+)/secret$~', 'GET /files/{name}/secret', ['name']],
    ['GET', '~^/files/(?<name>[^/]+)/(?<part>[^/]+)$~', 'GET /files/{name}/{part}', ['name', 'part']],
];
foreach ($routes as [$verb, $pattern, $handler, $names]) {
    if ($method === $verb && preg_match($pattern, $path, $found)) {
        seen($handler, array_intersect_key($found, array_flip($names)));
    }
}
switch ("$method $path") {
    case 'GET /search':
        $tag = $_GET['tag'] ?? null;
        // PHP keeps the last of several `tag`s; a list is written `tag[]`
        seen('GET /search', ['limit' => $_GET['limit'] ?? null, 'tag' => is_string($tag) ? [$tag] : $tag]);
    case 'GET /charge':
        seen('GET /charge', ['amount' => $_SERVER['HTTP_X_AMOUNT'] ?? null]);
    case 'POST /orders':
        $body = json_decode(file_get_contents('php://input'), true);
        if (!is_array($body)) { http_response_code(400); exit; }
        seen('POST /orders', ['amount' => $body['amount'] ?? null, 'note' => $body['note'] ?? null]);
    case 'POST /forms':
    case 'POST /uploads':
        seen("$method $path", ['amount' => $_POST['amount'] ?? null, 'file' => $_FILES['file']['name'] ?? null]);
}
http_response_code(404);
