package heads

import "context"

// GiveBack gives a lease back, and has its former holder go on.
func GiveBack(l *Lead) error { return l.lease.Release(context.Background()) }
