//go:build tools

// Package wireguard pins the userspace WireGuard that is used where the kernel has none.
package wireguard

import _ "golang.zx2c4.com/wireguard"
