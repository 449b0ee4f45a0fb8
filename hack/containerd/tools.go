//go:build tools

// Package containerd pins what runs the containers of a minigrid with kubelets. Debian 12 has 1.6, which that kubelet refuses.
package containerd

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
)
