//go:build tools

// Package etcd pins the store of a minigrid's control plane. Debian 12 has 3.4, of which Kubernetes 1.37 gets no watch that
// begins with the present state.
package etcd

import _ "go.etcd.io/etcd/server/v3"
