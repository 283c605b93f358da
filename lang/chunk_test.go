package lang

import (
	"fmt"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"matrix"
)

// pieces are the texts of a result, whose offsets are checked against s.
func pieces(t interface{ Fatalf(string, ...any) }, s string, list []any) []string {
	var out []string
	runes := []rune(s)
	for _, p := range list {
		m := p.(map[string]any)
		start, end := m["start"].(int), m["end"].(int)
		if start < 0 || end > len(runes) || start >= end || string(runes[start:end]) != m["text"] {
			t.Fatalf("%q: got %v", s, m)
		}
		out = append(out, m["text"].(string))
	}
	return out
}

func TestChunk(t *testing.T) {
	const prose = "Mr. Smith went to Washington. He met J. R. Ewing, i.e. the other one!  Was it nice?\nIt was (mostly).\n\nA second paragraph\nover two lines. Café 🇨🇿 über alles."
	for _, test := range []struct {
		text          string
		size, overlap int
		by            string
		want          []string
	}{
		{"", 5, 0, "sentences", nil},
		{" \n\t ", 5, 0, "words", nil},
		{"a b c d e f g", 3, 0, "words", []string{"a b c", "d e f", "g"}},
		{"a b c d e f g", 3, 1, "words", []string{"a b c", "c d e", "e f g"}},
		{"a b c d", 3, 2, "words", []string{"a b c", "b c d"}},
		{"one two three four", 2, 0, "tokens", []string{"one two", "three", "four"}},
		{"aaaabbbbccccdd e", 1, 0, "tokens", []string{"aaaa", "bbbb", "cccc", "dd e"}},
		{"👩‍👩‍👧👩‍👩‍👧x", 1, 0, "tokens", []string{"👩‍👩‍👧", "👩‍👩‍👧", "x"}},
		{prose, 12, 0, "sentences", []string{"Mr. Smith went to Washington.", "He met J. R. Ewing, i.e. the other one!", "Was it nice?\nIt was (mostly).", "A second paragraph\nover two lines.", "Café 🇨🇿 über alles."}},
		{prose, 40, 0, "paragraphs", []string{"Mr. Smith went to Washington. He met J. R. Ewing, i.e. the other one!  Was it nice?\nIt was (mostly).", "A second paragraph\nover two lines. Café 🇨🇿 über alles."}},
		{"今日は晴れ。明日は雨です。風が強い！本当？", 10, 0, "sentences", []string{"今日は晴れ。明日は雨です。", "風が強い！本当？"}},
		{"````\n```sh\n# no heading\n```\n# nor this\n````\n# A\ntext", 50, 0, "headings", []string{"````\n```sh\n# no heading\n```\n# nor this\n````", "# A\ntext"}},
		{"# A\n\n## B\n\ntext\n\n```\n# no heading\n```\n## C\nmore\n#no\n# D", 50, 0, "headings", []string{"# A\n\n## B\n\ntext\n\n```\n# no heading\n```", "## C\nmore\n#no", "# D"}},
		{"a. b. c. d.", 100, 0, "sentences", []string{"a. b. c. d."}},
	} {
		got, err := chunk(test.text, test.size, test.overlap, test.by)
		if err != nil || fmt.Sprintf("%q", pieces(t, test.text, got)) != fmt.Sprintf("%q", test.want) {
			t.Errorf("%.30q by %s: got %q, %v, want %q", test.text, test.by, pieces(t, test.text, got), err, test.want)
		}
	}
}

func TestChunkErrors(t *testing.T) {
	for src, want := range map[string]string{
		`chunk("a", 0)`: "at least 1", `chunk("a", 5, 5)`: "less than the size", `chunk("a", 5, -1)`: "less than the size", `chunk("a", 5, 0, "sentence")`: "sentences",
		`chunk("a", 1.5)`: "whole numbers", `chunk([1], 5)`: "want a text", `chunk("a", 5, 0, 1)`: "as a text",
	} {
		e, err := CompileExpr(src, nil)
		if err == nil {
			_, err = e.Eval(nil)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", src, err, want)
		}
	}
}

// Whatever the text, no character that is no space is lost, pieces are in order and no larger
// than they may be, and repeat no more than they may.
func TestChunkProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("ab. !?\n\t#`日本。é\u0301👩\u200d")), 0, 200, -1).Draw(t, "text")
		size := rapid.IntRange(1, 20).Draw(t, "size")
		overlap := rapid.IntRange(0, size-1).Draw(t, "overlap")
		by := rapid.SampledFrom(chunkWays).Draw(t, "by")
		list, err := chunk(text, size, overlap, by)
		if err != nil {
			t.Fatalf("got %v", err)
		}
		got := pieces(t, text, list)
		runes := []rune(text)
		at := 0 // up to where all is in a piece
		for i, p := range list {
			m := p.(map[string]any)
			start, end := m["start"].(int), m["end"].(int)
			if end <= at {
				t.Fatalf("piece %d, %v, ends before %d", i, m, at)
			}
			if start > at {
				if lost := strings.TrimFunc(string(runes[at:start]), unicode.IsSpace); lost != "" {
					t.Fatalf("%q is in no piece of %q", lost, got)
				}
			}
			if start < at {
				repeated := string(runes[start:at])
				if by == "words" && len(strings.Fields(repeated)) > overlap || by != "words" && len(repeated) > overlap*tokenBytes {
					t.Fatalf("%q is repeated in %q, at most %d may be", repeated, got, overlap)
				}
			}
			if words := strings.Fields(m["text"].(string)); by == "words" && len(words) > size {
				t.Fatalf("%q has more than %d words", m["text"], size)
			}
			at = end
		}
		if lost := strings.TrimFunc(string(runes[at:]), unicode.IsSpace); lost != "" {
			t.Fatalf("%q is in no piece of %q", lost, got)
		}
	})
}

func TestSamplers(t *testing.T) {
	t.Parallel()
	params := Params{"names": []any{"a", "b", "c"}}
	eval := func(src string, seed int64, locals ...any) any {
		t.Helper()
		names := []string{"x", "y", "z"}[:len(locals)]
		e, err := CompileExpr(src, params, names...)
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		if e.Fixed() {
			t.Errorf("%s: is said to be the same for every task", src)
		}
		out, err := e.EvalLocals(&matrix.Task{Row: "r", Seed: seed}, locals)
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		return out
	}
	counts := map[any]int{}
	sum, squares, differ := 0.0, 0.0, 0
	days := map[any]bool{}
	for seed := range int64(2000) {
		counts[eval(`pick(params.names, [1, 0, 3])`, seed)]++
		g := eval(`gauss(10, 2)`, seed).(float64)
		sum, squares = sum+g, squares+g*g
		if eval(`pick(params.names)`, seed) != eval(`pick(params.names)`, seed, 1) {
			differ++
		}
		d := eval(`date_between("2024-02-28", "2024-03-01")`, seed)
		days[d] = true
		if again := eval(`gauss(10, 2)`, seed); again != g {
			t.Fatalf("seed %d: got %v, then %v", seed, g, again)
		}
		if at := eval(`date_between("2024-01-01T00:00:00Z", "2024-01-01T00:00:59Z")`, seed).(string); !strings.HasPrefix(at, "2024-01-01T00:00:") {
			t.Fatalf("got %v", at)
		}
	}
	mean := sum / 2000
	if sd := squares/2000 - mean*mean; counts["b"] != 0 || counts["a"] < 400 || counts["a"] > 600 || mean < 9.8 || mean > 10.2 || sd < 3.5 || sd > 4.5 {
		t.Errorf("got %v, mean %v, variance %v", counts, mean, sd)
	}
	if len(days) != 3 || !days["2024-02-29"] {
		t.Errorf("got the days %v", days)
	}
	if differ < 1100 || differ > 1550 { // two in three, where fields choose on their own
		t.Errorf("two fields of one text differ %d of 2000 times", differ)
	}
	if out := eval(`map([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], pick([0, 1]))`, 1); strings.Count(fmt.Sprint(out), "1")%10 == 0 {
		t.Errorf("each choice is the same: %v", out)
	}
	tpl, err := CompileTemplate(`{{ pick(["a", "b", "c"]) }} {{ pick(["a", "b"], [0, 2.5]) }} {{ gauss(1, 0) }} {{ date_between("2024-01-01", "2024-01-01") }}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for seed := range int64(50) {
		s, err := tpl.Render(&matrix.Task{Seed: seed}, nil)
		again, _ := tpl.Render(&matrix.Task{Seed: seed}, nil)
		if err != nil || s != again || !strings.HasSuffix(s, " b 1.0 2024-01-01") {
			t.Fatalf("got %q, %q, %v", s, again, err)
		}
		seen[s] = true
	}
	if len(seen) != 3 || tpl.Fixed() {
		t.Errorf("got %v", seen)
	}
	for src, want := range map[string]string{
		`draw("ab", 1)`: "want a list", `draw([1], -1)`: "a whole number of elements", `draw([1], 0.5)`: "a whole number of elements",
		`pick([])`: "pick: there is nothing to pick", `pick("a")`: "want a list", `pick([1], [1, 2])`: "2 weights for 1", `pick([1], [-1])`: "not negative", `pick([1], [0])`: "sum to 0",
		`gauss(1, -1)`: "not negative", `gauss("a", 1)`: "want a mean", `date_between("2024-01-02", "2024-01-01")`: "comes after", `date_between("x", 1)`: "want two days",
	} {
		e, err := CompileExpr(src, nil)
		if err == nil {
			_, err = e.Eval(&matrix.Task{})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", src, err, want)
		}
	}
}

func TestLanguage(t *testing.T) {
	for want, text := range map[string]string{
		"en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
		"de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
		"fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
		"es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
		"pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de consciência, devem agir uns para com os outros em espírito de fraternidade.",
		"it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
		"nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand en geweten, en behoren zich jegens elkander in een geest van broederschap te gedragen.",
		"sv": "Alla människor är födda fria och lika i värde och rättigheter. De är utrustade med förnuft och samvete och bör handla gentemot varandra i en anda av broderskap.",
		"da": "Alle mennesker er født frie og lige i værdighed og rettigheder. De er udstyret med fornuft og samvittighed, og de bør handle mod hverandre i en broderskabets ånd. Hvad er der blevet af det?",
		"no": "Alle mennesker er født frie og med samme menneskeverd og menneskerettigheter. De er utstyrt med fornuft og samvittighet og bør handle mot hverandre i brorskapets ånd. Hva ble det av det?",
		"fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki ja omatunto, ja heidän on toimittava toisiaan kohtaan veljeyden hengessä.",
		"pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.",
		"cs": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a svědomím a mají spolu jednat v duchu bratrství.",
		"hu": "Minden emberi lény szabadon születik és egyenlő méltósága és joga van. Az emberek, ésszel és lelkiismerettel bírván, egymással szemben testvéri szellemben kell hogy viseltessenek.",
		"ro": "Toate ființele umane se nasc libere și egale în demnitate și în drepturi. Ele sunt înzestrate cu rațiune și conștiință și trebuie să se comporte unele față de altele în spiritul fraternității.",
		"tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler.",
		"id": "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang sama. Mereka dikaruniai akal dan hati nurani dan hendaknya bergaul satu sama lain dalam semangat persaudaraan.",
		"vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền. Mọi con người đều được tạo hóa ban cho lý trí và lương tâm và cần phải đối xử với nhau trong tình bằng hữu.",
		"ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
		"uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах. Вони наділені розумом і совістю і повинні діяти у відношенні один до одного в дусі братерства.",
		"bg": "Всички хора се раждат свободни и равни по достойнство и права. Те са надарени с разум и съвест и следва да се отнасят помежду си в дух на братство.",
		"zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。", "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
		"ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.", "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح الإخاء.",
		"he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.", "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.", "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
		"hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।", "fa": "تمام افراد بشر آزاد به دنیا می\u200cآیند و از لحاظ حیثیت و حقوق با هم برابرند.",
		"": "12345 !!! -- 99",
	} {
		if got := language(text); got != want {
			t.Errorf("got %q, want %q: %.40s", got, want, text)
		}
		if got := language(strings.Repeat(text+"\n", 200)); got != want {
			t.Errorf("got %q, want %q: %.40s, many times", got, want, text)
		}
	}
	for _, text := range []string{"", "ok", "func main() { fmt.Println(x) }", "Lorem ipsum dolor sit amet consectetur adipiscing elit", "\xff\xfe\xfd"} {
		if got := language(text); got != "" {
			t.Errorf("%q: got %q, want nothing", text, got)
		}
	}
	for _, text := range []string{"This is a short English sentence.", "Where is the station?"} {
		if got := language(text); got != "en" {
			t.Errorf("%q: got %q", text, got)
		}
	}
}

func BenchmarkLanguage(b *testing.B) {
	text := strings.Repeat("All human beings are born free and equal in dignity and rights. ", 100)
	for b.Loop() {
		language(text)
	}
}

func BenchmarkChunk(b *testing.B) {
	text := strings.Repeat("All human beings are born free and equal in dignity and rights. They are endowed with reason.\n\n", 10_000)
	for _, by := range chunkWays {
		b.Run(by, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := chunk(text, 200, 20, by); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Each n elements of a list are drawn as often as any others, none twice, and all of a
// list that has fewer.
func TestDraw(t *testing.T) {
	e, err := CompileExpr(`draw(params.list, params.n)`, Params{"list": []any{"a", "b", "c", "d"}, "n": 2})
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for seed := range 3000 {
		v, err := e.Eval(&matrix.Task{Seed: int64(seed)})
		if err != nil {
			t.Fatal(err)
		}
		counts[fmt.Sprint(v)]++
	}
	if len(counts) != 12 {
		t.Errorf("got %v, want the 12 ordered pairs of 4", counts)
	}
	for pair, n := range counts {
		if n < 180 || n > 320 {
			t.Errorf("%s: drawn %d times of 3000, want about 250", pair, n)
		}
	}
	for src, want := range map[string]int{`draw([1, 2, 3], 5)`: 3, `draw([], 1)`: 0, `draw([1], 0)`: 0, `draw(1..100000, 3)`: 3, `draw(split("a b c", " "), 2)`: 2} {
		e, err := CompileExpr(src, nil)
		if err != nil {
			t.Fatal(err)
		}
		v, err := e.Eval(&matrix.Task{Seed: 7})
		list, _ := v.([]any)
		seen := map[any]bool{}
		for _, x := range list {
			seen[x] = true
		}
		if err != nil || len(list) != want || len(seen) != want {
			t.Errorf("%s: got %v, %v; want %d elements", src, v, err, want)
		}
	}
}
