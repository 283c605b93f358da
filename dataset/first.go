package dataset

import (
	"context"
	"errors"

	"matrix"
)

// First is the first n rows of a dataset. Its Count is n, which is not worth a walk
// over the dataset.
func First(src matrix.Source, n int64) matrix.Source { return &first{src, n} }

type first struct {
	matrix.Source
	n int64
}

var errEnoughRows = errors.New("enough rows")

func (s *first) Rows(ctx context.Context, from matrix.Position, f func(matrix.Row) error) error {
	seen := int64(0)
	err := s.Source.Rows(ctx, from, func(r matrix.Row) error {
		if seen == s.n {
			return errEnoughRows
		}
		seen++
		return f(r)
	})
	if errors.Is(err, errEnoughRows) {
		return nil
	}
	return err
}

func (s *first) Count(context.Context) (int64, error) { return s.n, nil }
