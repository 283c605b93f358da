package dataset

import (
	"cmp"
	"context"
	"errors"
	"slices"

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

// Draw is n rows of a dataset, chosen at random by a seed, in order. What has to be read for
// that is all of it.
func Draw(src matrix.Source, n int, seed int64) matrix.Source {
	return &drawn{Source: src, n: n, seed: seed}
}

type drawn struct {
	matrix.Source
	n    int
	seed int64
}

func (s *drawn) Rows(ctx context.Context, from matrix.Position, f func(matrix.Row) error) error {
	type ticket struct {
		rank uint64
		row  matrix.Row
	}
	var held []ticket // of the least ranks, up to twice as many as are wanted
	by := Source{o: Options{Seed: s.seed}}
	cut := func() {
		slices.SortFunc(held, func(a, b ticket) int { return cmp.Compare(a.rank, b.rank) })
		held = held[:min(s.n, len(held))]
	}
	if err := s.Source.Rows(ctx, matrix.Position{}, func(r matrix.Row) error {
		if held = append(held, ticket{by.rank(0, r.Number), r}); len(held) >= 2*s.n+100 {
			cut()
		}
		return nil
	}); err != nil {
		return err
	}
	cut()
	slices.SortFunc(held, func(a, b ticket) int { return cmp.Compare(a.row.Number, b.row.Number) })
	for i := int(from.Row); i < len(held); i++ {
		row := held[i].row
		row.Number, row.Next = int64(i), matrix.Position{Row: int64(i) + 1}
		if err := f(row); err != nil {
			return err
		}
	}
	return nil
}

func (s *drawn) Count(context.Context) (int64, error) { return int64(s.n), nil }
