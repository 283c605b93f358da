package local

import "context"

// Compact rewrites the whole store.
func (q *Queue) Compact() error {
	if err := q.db.Flush(); err != nil {
		return err
	}
	return q.db.Compact(context.Background(), []byte{0}, []byte{0xff}, false)
}
