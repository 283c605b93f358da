package llm

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

//go:embed prices.yaml
var priceTable []byte

// priceRow is a row of the table of prices.
type priceRow struct {
	Models []string
	Price  `yaml:",inline"`
	Source string
	Date   string
}

// priceRows reads the table of prices: rows by vendor.
func priceRows() (map[string][]priceRow, error) {
	var t map[string][]priceRow
	if err := yaml.UnmarshalWithOptions(priceTable, &t, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("prices.yaml: %w", err)
	}
	return t, nil
}

// dated is a version behind the name of a model.
var dated = regexp.MustCompile(`-(\d{8}|\d{4}-\d\d-\d\d)$`)

// PriceOf looks a model up in the table of published prices, by the name it
// has at the service; a router's prefix of the vendor (openai/, anthropic/,
// google/) and a date behind the name may be there. The table says of each price where
// it was read, and when.
func PriceOf(model string) (Price, bool) {
	model = strings.ToLower(model)
	only := ""
	if vendor, name, ok := strings.Cut(model, "/"); ok {
		only, model = vendor, name
	}
	table, err := priceRows()
	if err != nil || model == "" {
		return Price{}, false // a test reads the table
	}
	for _, name := range []string{model, dated.ReplaceAllString(model, "")} {
		for _, vendor := range []string{"openai", "anthropic", "google", "mistral", "deepseek"} {
			if only != "" && (only != vendor || vendor == "mistral" || vendor == "deepseek") {
				continue // others serve these too, at prices of their own
			}
			for _, row := range table[vendor] {
				if slices.Contains(row.Models, name) {
					return row.Price, true
				}
			}
		}
	}
	return Price{}, false
}
