package matrixtest_test

import (
	"sync"
	"testing"

	"matrix/local"
	"matrix/matrixtest"
)

func TestScriptedLog(t *testing.T) {
	var mu sync.Mutex
	logs := map[string]*matrixtest.ScriptedLog{}
	matrixtest.Log(t, func(t testing.TB, name string, fault func(n int) matrixtest.LogFault) local.Log {
		mu.Lock()
		defer mu.Unlock()
		if logs[name] == nil {
			logs[name] = matrixtest.NewScriptedLog(2 << 10)
		}
		return logs[name].Open(fault)
	})
}
