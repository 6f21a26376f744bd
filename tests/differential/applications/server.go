// The same API on Go's net/http: it routes by the decoded path, and reads JSON with encoding/json.
package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
)

type values map[string]any

func seen(w http.ResponseWriter, handler string, found values) {
	for name, value := range found {
		if value == "" {
			delete(found, name)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"handler": handler, "values": found})
}

type order struct {
	Amount *float64 `json:"amount"`
	Note   *string  `json:"note"`
}

func get(w http.ResponseWriter, r *http.Request, parts []string) bool {
	switch {
	case r.URL.Path == "/users/@me":
		seen(w, "GET /users/@me", values{})
	case len(parts) == 2 && parts[0] == "users" && parts[1] != "":
		seen(w, "GET /users/{id}", values{"id": parts[1]})
	case len(parts) == 2 && parts[0] == "items" && parts[1] != "":
		seen(w, "GET /items/{number}", values{"number": parts[1]})
	case len(parts) == 3 && parts[0] == "files" && parts[1] != "" && parts[2] == "secret":
		seen(w, "GET /files/{name}/secret", values{"name": parts[1]})
	case len(parts) == 3 && parts[0] == "files" && parts[1] != "" && parts[2] != "":
		seen(w, "GET /files/{name}/{part}", values{"name": parts[1], "part": parts[2]})
	case r.URL.Path == "/search":
		query := r.URL.Query()
		found := values{"limit": query.Get("limit")}
		if tags := query["tag"]; len(tags) > 0 {
			found["tag"] = tags
		}
		seen(w, "GET /search", found)
	case r.URL.Path == "/charge":
		seen(w, "GET /charge", values{"amount": r.Header.Get("X-Amount")})
	default:
		return false
	}
	return true
}

func post(w http.ResponseWriter, r *http.Request, parts []string) bool {
	switch {
	case len(parts) == 2 && parts[0] == "users" && strings.HasSuffix(parts[1], ":disable") && parts[1] != ":disable":
		seen(w, "POST /users/{id}:disable", values{"id": strings.TrimSuffix(parts[1], ":disable")})
	case len(parts) == 2 && parts[0] == "users" && parts[1] != "":
		seen(w, "POST /users/{id}", values{"id": parts[1]})
	case r.URL.Path == "/orders":
		var body order
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), 400)
			return true
		}
		found := values{}
		if body.Amount != nil {
			found["amount"] = *body.Amount
		}
		if body.Note != nil {
			found["note"] = *body.Note
		}
		seen(w, "POST /orders", found)
	case r.URL.Path == "/forms":
		seen(w, "POST /forms", values{"amount": r.PostFormValue("amount")})
	case r.URL.Path == "/uploads":
		if err := r.ParseMultipartForm(1 << 20); err != nil {
			http.Error(w, err.Error(), 400)
			return true
		}
		found := values{"amount": r.PostFormValue("amount")}
		if files := r.MultipartForm.File["file"]; len(files) > 0 {
			found["file"] = files[0].Filename
		}
		seen(w, "POST /uploads", found)
	default:
		return false
	}
	return true
}

func main() {
	handle := func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
		route := map[string]func(http.ResponseWriter, *http.Request, []string) bool{"GET": get, "POST": post}[r.Method]
		if route == nil || !route(w, r, parts) {
			http.NotFound(w, r)
		}
	}
	http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(handle))
}
