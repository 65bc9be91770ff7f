package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/vault/sdk/logical"
)

// policy is what a token may do: Vault's own language, without wildcards inside of a path and without conditions.
type policy struct {
	everything bool
	rules      map[string][]string
}

func parsePolicy(text string) (policy, error) {
	if strings.TrimSpace(text) == "" {
		return policy{everything: true}, nil
	}
	var document struct {
		Path map[string]struct {
			Capabilities []string `hcl:"capabilities"`
		} `hcl:"path"`
	}
	if err := hcl.Decode(&document, text); err != nil {
		return policy{}, err
	}
	if len(document.Path) == 0 {
		return policy{}, fmt.Errorf("the policy names no path")
	}
	rules := map[string][]string{}
	for path, rule := range document.Path {
		rules[path] = rule.Capabilities
	}
	return policy{rules: rules}, nil
}

// allows says whether a rule for exactly this path, or else the longest one that ends in `*`, has the capability.
func (p policy) allows(path string, operation logical.Operation) bool {
	if p.everything {
		return true
	}
	if capabilities, ok := p.rules[path]; ok {
		return slices.Contains(capabilities, string(operation))
	}
	longest, allowed := -1, false
	for rule, capabilities := range p.rules {
		prefix, ok := strings.CutSuffix(rule, "*")
		if ok && strings.HasPrefix(path, prefix) && len(prefix) > longest {
			longest, allowed = len(prefix), slices.Contains(capabilities, string(operation))
		}
	}
	return allowed
}
