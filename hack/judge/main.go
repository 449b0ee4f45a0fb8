// Judges objects as GitOps tools do: Flux by its own kstatus package, Argo CD by a health script in the Lua that it embeds.
//
//	judge SCRIPT <objects >verdicts
//
// An object in JSON on each line of the input, and for each a line {"kstatus", "kmessage", "health", "hmessage"}. A script that fails
// is an error, as it is "Unknown" in Argo CD.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type verdict struct {
	Kstatus        string `json:"kstatus"`
	KstatusMessage string `json:"kmessage"`
	Health         string `json:"health"`
	HealthMessage  string `json:"hmessage"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(1)
	}
}

func run() error {
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	in, out := bufio.NewReaderSize(os.Stdin, 1<<20), json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) == 0 && err != nil {
			return nil
		}
		obj := &unstructured.Unstructured{}
		if err := obj.UnmarshalJSON(line); err != nil {
			return err
		}
		judged, err := judge(obj, string(script))
		if err != nil {
			return fmt.Errorf("%s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
		if err := out.Encode(judged); err != nil {
			return err
		}
	}
}

func judge(obj *unstructured.Unstructured, script string) (verdict, error) {
	flux, err := status.Compute(obj)
	if err != nil {
		return verdict{}, err
	}
	health, message, err := healthOf(obj, script)
	return verdict{flux.Status.String(), flux.Message, health, message}, err
}

// A script has these libraries and a second of time: neither string nor math. (Of an object that is being deleted Argo CD says by
// itself that it is Progressing, "Pending deletion"; the script is to say the same.)
func healthOf(obj *unstructured.Unstructured, script string) (string, string, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return "", "", err
		}
	}
	limit, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(limit)
	state.SetGlobal("obj", value(state, obj.Object))
	if err := state.DoString(script); err != nil {
		return "", "", err
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("the script gives %s and no table", state.Get(-1).Type())
	}
	health := answer.RawGetString("status").String()
	switch health {
	case "Healthy", "Progressing", "Degraded", "Suspended":
	default:
		return "", "", fmt.Errorf("%q is no health", health)
	}
	return health, lua.LVAsString(answer.RawGetString("message")), nil
}

func value(state *lua.LState, it any) lua.LValue {
	switch it := it.(type) {
	case bool:
		return lua.LBool(it)
	case string:
		return lua.LString(it)
	case int64:
		return lua.LNumber(it)
	case float64:
		return lua.LNumber(it)
	case []any:
		list := state.CreateTable(len(it), 0)
		for _, each := range it {
			list.Append(value(state, each))
		}
		return list
	case map[string]any:
		table := state.CreateTable(0, len(it))
		for name, each := range it {
			table.RawSetString(name, value(state, each))
		}
		return table
	}
	return lua.LNil
}
