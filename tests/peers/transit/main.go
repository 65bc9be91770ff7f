// Command transit serves Vault's own Transit engine over HTTP as Vault does, for the tests of KNHK.
//
// What is Vault's: the engine, the rules that make a status of an error, the envelope of an answer, the language of policies.
// What is not: tokens and mounts are made by anybody under /test/, and everything is in memory. It is for tests only, on a
// loopback address; the engine is under the Business Source License.
//
//	PUT    /test/tokens/TOKEN        a token; the body is its policy in HCL, empty for one that may do everything
//	DELETE /test/tokens/TOKEN
//	PUT    /test/mounts/PATH         Transit at PATH, in the namespace that X-Vault-Namespace names
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/hashicorp/go-multierror"
	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/logical"
)

// The largest body of a request, in bytes; Vault's own default is 32 MiB.
const maxBody = 1 << 20

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "the address to serve on")
	authority := flag.String("tls-ca", "", "serve TLS, and write the PEM of a new authority to this file")
	flag.Parse()

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	if *authority != "" {
		if listener, err = withTLS(listener, *authority); err != nil {
			log.Fatal(err)
		}
	}
	log.Printf("serving on %s", listener.Addr())
	log.Fatal(http.Serve(listener, &server{mounts: map[mountPoint]*mount{}, tokens: map[string]policy{}}))
}

// mountPoint is where an engine is: its path has no slash at either end.
type mountPoint struct{ namespace, path string }

type mount struct {
	backend logical.Backend
	storage logical.Storage
}

type server struct {
	lock   sync.Mutex
	mounts map[mountPoint]*mount
	tokens map[string]policy
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	namespace := strings.Trim(r.Header.Get("X-Vault-Namespace"), "/")
	if path, ok := strings.CutPrefix(r.URL.Path, "/test/"); ok {
		if err := s.arrange(r, namespace, path); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	if path == "sys/health" {
		logical.RespondWithBody(w, http.StatusOK, `{"initialized":true,"sealed":false,"standby":false}`)
		return
	}
	s.serveVault(w, r, namespace, path)
}

// arrange does what an operator of Vault would do before.
func (s *server) arrange(r *http.Request, namespace, path string) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	kind, name, _ := strings.Cut(path, "/")
	switch {
	case r.Method == http.MethodPut && kind == "mounts":
		engine, err := newMount()
		if err == nil {
			s.mounts[mountPoint{namespace, name}] = engine
		}
		return err
	case r.Method == http.MethodPut && kind == "tokens":
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		rules, err := parsePolicy(string(body))
		if err == nil {
			s.tokens[name] = rules
		}
		return err
	case r.Method == http.MethodDelete && kind == "tokens":
		delete(s.tokens, name)
		return nil
	}
	return fmt.Errorf("no such arrangement: %s %s", r.Method, r.URL.Path)
}

func newMount() (*mount, error) {
	storage := &logical.InmemStorage{}
	config := logical.TestBackendConfig()
	config.StorageView = storage
	backend, err := transit.Factory(context.Background(), config)
	if err != nil {
		return nil, err
	}
	init := &logical.InitializationRequest{Storage: storage}
	return &mount{backend, storage}, backend.Initialize(context.Background(), init)
}

func (s *server) serveVault(w http.ResponseWriter, r *http.Request, namespace, path string) {
	request, err := parseRequest(r)
	if err != nil {
		logical.RespondError(w, http.StatusBadRequest, err)
		return
	}
	rules, known := s.policyOf(r.Header.Get("X-Vault-Token"))
	if !known {
		logical.RespondError(w, http.StatusForbidden, multierror.Append(logical.ErrPermissionDenied, logical.ErrInvalidToken))
		return
	}
	engine, point := s.find(namespace, path)
	if engine == nil {
		logical.RespondError(w, http.StatusNotFound, fmt.Errorf("no handler for route %q. route entry not found.", path))
		return
	}
	request.MountPoint = point + "/"
	request.Path = strings.TrimPrefix(path, point+"/")
	request.Storage = engine.storage
	response, err := engine.handle(r.Context(), request, rules, path)
	respond(w, request, response, err)
}

func (s *server) policyOf(token string) (policy, bool) {
	s.lock.Lock()
	defer s.lock.Unlock()
	rules, known := s.tokens[token]
	return rules, known
}

// find gives the mount with the longest path that leads to the request's.
func (s *server) find(namespace, path string) (*mount, string) {
	s.lock.Lock()
	defer s.lock.Unlock()
	for end := strings.LastIndex(path, "/"); end > 0; end = strings.LastIndex(path[:end], "/") {
		if engine, ok := s.mounts[mountPoint{namespace, path[:end]}]; ok {
			return engine, path[:end]
		}
	}
	return nil, ""
}

// handle asks the policy and then the engine. A write is a creation where the engine says that there is nothing yet.
func (m *mount) handle(ctx context.Context, request *logical.Request, rules policy, path string) (*logical.Response, error) {
	if request.Operation == logical.UpdateOperation {
		checked, exists, err := m.backend.HandleExistenceCheck(ctx, request)
		if err != nil && !errors.Is(err, logical.ErrUnsupportedPath) {
			return nil, err
		}
		if checked && !exists {
			request.Operation = logical.CreateOperation
		}
	}
	if !rules.allows(path, request.Operation) {
		return nil, logical.ErrPermissionDenied
	}
	return m.backend.HandleRequest(ctx, request)
}

func parseRequest(r *http.Request) (*logical.Request, error) {
	operations := map[string]logical.Operation{
		http.MethodGet:    logical.ReadOperation,
		http.MethodPost:   logical.UpdateOperation,
		http.MethodPut:    logical.UpdateOperation,
		http.MethodDelete: logical.DeleteOperation,
	}
	operation, ok := operations[r.Method]
	if !ok {
		return nil, fmt.Errorf("unsupported method %s", r.Method)
	}
	id, err := uuid.GenerateUUID()
	if err != nil {
		return nil, err
	}
	request := &logical.Request{ID: id, Operation: operation, Data: map[string]any{}}
	decoder := json.NewDecoder(r.Body)
	// As Vault does: a number is not rounded to a float.
	decoder.UseNumber()
	if err := decoder.Decode(&request.Data); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("error parsing JSON: %w", err)
	}
	return request, nil
}

func respond(w http.ResponseWriter, request *logical.Request, response *logical.Response, err error) {
	status, err := logical.RespondErrorCommon(request, response, err)
	switch {
	case err != nil || status != 0:
		logical.RespondError(w, status, err)
	case response == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		envelope := logical.LogicalResponseToHTTPResponse(response)
		envelope.RequestID = request.ID
		body, err := json.Marshal(envelope)
		if err != nil {
			logical.RespondError(w, http.StatusInternalServerError, err)
			return
		}
		logical.RespondWithBody(w, http.StatusOK, string(body))
	}
}
