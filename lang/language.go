package lang

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	languageBytes = 1 << 10 // of the beginning, and of the middle, that are looked at
	languageWords = 4       // that must be known at least
)

// language guesses in which language a text is: its code in ISO 639-1, or "" where that is
// not sure. It looks at 2 KiB: which script most letters are of, and, where several languages
// are written in it, whose most frequent words are most frequent. It takes some 50 us.
func language(s string) string {
	if len(s) > 2*languageBytes {
		middle := len(s)/2 - languageBytes/2
		s = strings.ToValidUTF8(s[:languageBytes], "") + " " + strings.ToValidUTF8(s[middle:middle+languageBytes], "")
	}
	counts := [len(scripts)]int{}
	letters := 0
	for _, r := range s {
		if r < utf8.RuneSelf && (r|0x20 < 'a' || r|0x20 > 'z') || !unicode.IsLetter(r) {
			continue
		}
		letters++
		for i := range scripts {
			if unicode.Is(scripts[i].table, r) {
				counts[i]++
				break
			}
		}
	}
	best := 0
	for i := range counts {
		if counts[i] > counts[best] {
			best = i
		}
	}
	if counts[best]*2 <= letters || letters < 4 {
		return japanese(counts[:], letters)
	}
	script := &scripts[best]
	if script.table == unicode.Han {
		if code := japanese(counts[:], letters); code != "" {
			return code
		}
	}
	if script.code != "" {
		return script.code
	}
	return byWords(s, script)
}

// japanese is what is written in kana, or in kana and Han.
func japanese(counts []int, letters int) string {
	kana, han := 0, 0
	for i := range scripts {
		switch scripts[i].table {
		case unicode.Hiragana, unicode.Katakana:
			kana += counts[i]
		case unicode.Han:
			han += counts[i]
		}
	}
	if letters >= 4 && kana*10 >= letters && (kana+han)*2 > letters {
		return "ja"
	}
	return ""
}

// byWords is the language of a script whose frequent words are most frequent.
func byWords(s string, script *script) string {
	scores := make(map[string]float64, len(script.languages))
	known, words := 0, 0
	for word := range strings.FieldsFuncSeq(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsMark(r) && r != '\'' && r != '’' }) {
		words++
		if len(word) > 32 {
			continue
		}
		word = strings.ToLower(word)
		codes := script.words[word]
		for _, code := range codes {
			scores[code] += 1 / float64(len(codes))
		}
		if len(codes) == 0 && script.table == unicode.Arabic && (strings.HasPrefix(word, "ال") || strings.HasPrefix(word, "وال") || strings.HasPrefix(word, "بال")) { // the article
			codes = []string{"ar"}
			scores["ar"]++
		}
		if len(codes) > 0 {
			known++
		}
		for _, r := range word {
			if code, ok := script.letters[r]; ok {
				scores[code] += 0.5
				break
			}
		}
	}
	first, second := "", ""
	for code, score := range scores {
		switch {
		case first == "" || score > scores[first] || score == scores[first] && code < first:
			first, second = code, first
		case second == "" || score > scores[second]:
			second = code
		}
	}
	if first == "" || known < min(languageWords, max(2, words/3)) || scores[first] < 0.06*float64(words) || scores[first] < 1.15*scores[second] {
		return ""
	}
	return first
}

// script is a script, and the language that is written in it or the words that tell which.
type script struct {
	table     *unicode.RangeTable
	code      string
	languages []string
	words     map[string][]string // to the languages that have them
	letters   map[rune]string     // to the one language that has them
}

// scripts are those that are told apart, the frequent ones first.
var scripts = [...]script{
	wordy(unicode.Latin, latin, "ßñãõőűğışțșđơưļķģėųľĺŕłřěůįœ", "de es pt pt hu hu tr tr tr ro ro vi vi vi lv lv lv lt lt sk sk sk pl cs cs cs lt fr"),
	wordy(unicode.Cyrillic, cyrillic, "іїєґўђјљњћџѓќѕыэёқңүұә", "uk uk uk uk be sr sr sr sr sr sr mk mk mk ru ru ru kk kk kk kk kk"),
	{table: unicode.Han, code: "zh"}, {table: unicode.Hiragana, code: "ja"}, {table: unicode.Katakana, code: "ja"}, {table: unicode.Hangul, code: "ko"},
	wordy(unicode.Arabic, arabic, "پچژگٹڈےںہ", "fa fa fa fa ur ur ur ur ur"),
	wordy(unicode.Devanagari, devanagari, "ळ", "mr"),
	{table: unicode.Hebrew, code: "he"}, {table: unicode.Greek, code: "el"}, {table: unicode.Thai, code: "th"}, {table: unicode.Bengali, code: "bn"},
	{table: unicode.Tamil, code: "ta"}, {table: unicode.Telugu, code: "te"}, {table: unicode.Kannada, code: "kn"}, {table: unicode.Malayalam, code: "ml"},
	{table: unicode.Gujarati, code: "gu"}, {table: unicode.Gurmukhi, code: "pa"}, {table: unicode.Sinhala, code: "si"}, {table: unicode.Georgian, code: "ka"},
	{table: unicode.Armenian, code: "hy"}, {table: unicode.Khmer, code: "km"}, {table: unicode.Lao, code: "lo"}, {table: unicode.Myanmar, code: "my"}, {table: unicode.Ethiopic, code: "am"},
}

// wordy is a script of several languages: a line of words each, which begins with its code,
// and letters, each with the code of its language.
func wordy(table *unicode.RangeTable, lines, letters, codes string) script {
	s := script{table: table, words: map[string][]string{}, letters: map[rune]string{}}
	for line := range strings.Lines(lines) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		s.languages = append(s.languages, fields[0])
		for _, w := range fields[1:] {
			s.words[w] = append(s.words[w], fields[0])
		}
	}
	of := strings.Fields(codes)
	for i, r := range []rune(letters) {
		s.letters[r] = of[i]
	}
	return s
}

const latin = `
en the of and to in is that it was for on are with as his they at be this have from or had by but not what all were when we there can an your which their said if do will each about how up out them then she many some so these would other into has more her two like him see time could no make than first been its who now people my made over did down only way find use may water long very after words just where most know get through back much before go good new our me you he
de der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis mehr durch man sein wurde sei wenn ich kann ihre wir ihr mich dich mir uns was alle sehr schon hier
fr de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont la avec son ou cette mais comme tout nous sa on ont été aux fait elle être deux même lui ces si leur ses aussi je vous mon sans c'est d'un d'une qu'il n'est très leurs était peut
es de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me si sin sobre este ya entre cuando todo esta ser son dos también fue había era muy años hasta desde está mi porque qué sólo han yo hay vez puede todos así nos ni parte tiene él
pt de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua ou ser quando muito há nos já está eu também só pelo pela até isso ela entre era depois sem mesmo aos ter seus quem nas me esse eles estão você tinha foram essa num nem suas meu às minha são
it di che e la il un a per è in una sono non mi si lo con le da ha del della i al come ma se più anche o gli nel alla dei ci questo ho suo dal tutto era essere ne delle fatto sua perché molto hanno quando chi cosa io solo due questa ai degli loro nella c'è lui stato sulla dopo dove
nl de het een en van in is dat op te zijn met voor niet aan er om ook als dan maar bij of uit nog naar door over ze zich hij worden wordt wel deze meer kan hebben had dit werd tot heeft haar geen wat was ik je we zo mijn hun veel moet zou kunnen al
sv och att det i en som på är av för med den till inte om ett har de jag var men sig han från vi så kan när man under också efter eller nu vid mot där skulle än alla sin mycket här ut varit hade oss blev vara mig dig sina detta
da og i at det er en til på af for de med der den som ikke et har var men han jeg fra om vi kan hun så blev eller efter også når være ud havde dem skal ved nu mod meget op hvor hvad sig mig dig noget nogle blive mange ville mere
no og i det er på en til som av for med at de ikke den har et var han jeg men fra om vi kan hun så ble eller etter også når være ut hadde dem skal ved nå mot mye opp hvor hva seg meg deg noe noen bli mange ville mer
fi ja on ei se että oli hän mutta ovat kun niin myös kuin tai joka mitä sen vain olla jos nyt vielä siitä sekä hänen ole mukaan jo voi kaikki ollut sitten minä sinä ne tämä joita mikä jotka kanssa koska ennen jälkeen
pl w i na z się do nie że to jest o jak od za po przez co dla są tak jego może który ale czy oraz już być ma tym która tylko które było był ich jej przy bardzo jako ja mnie także gdy lub nad pod bez też tego
cs a v se na je že s z do o i to za jako pro ve si po jsou k by který nebo od jeho ale které byl jak tak však při až bylo být která také není jen má svého jejich před jsem už co ještě kde když této tím
sk a v sa na je že s z do o aj to za ako pre vo si po sú k by ktorý alebo od jeho ale ktoré bol pri až bolo byť ktorá tiež nie len má ich pred som už čo ešte kde keď tejto tým ktorých
hu a az és hogy nem is egy van meg ez de volt csak már mint még vagy ha azt el kell be ki akkor ezt minden fel le lesz nagyon lehet pedig sem itt így után között által mert szerint aki amely ami
ro de și în la a cu care nu o pe un se din că este mai să o pentru sunt au prin ca fi sau dar fost după le fost era această acest lui ei sa ale al cele unei unui decât către foarte aceste toate
tr ve bir bu için de da çok ile o olarak daha ne kadar gibi olan en sonra ama var her ki ya mi ben sen ise değil olduğu göre yok nasıl iki veya şey ancak tarafından kendi bütün zaman
id yang dan di dengan untuk dari ini itu tidak pada dalam akan adalah juga ke oleh sebagai ada dapat atau telah karena bisa tersebut lebih saya mereka kita anda kami sudah harus dia saat hanya banyak seperti secara bahwa
vi và của là có không được trong cho một những các người với đã này khi đến như để từ ra tôi về cũng năm nhiều vào đó nhưng thì sẽ bị lại hay rất ông phải còn trên nếu
hr i je u se na da za su od s koji a o kao iz ne bi što to ili će biti nije samo sve nego može koje kako više koja ima prema kada bilo bio ako sam li jer ali između nakon zbog
sl in je v se na da za so ki z s ne pa kot bi tudi iz po o ni ali še ga bo pri biti kar lahko več samo sem jih med tako če le do vse bil zelo
et ja on ei et see oli mis ka kui oma ta nii aga või siis seda ning kes ma pole nende veel välja selle mida juba üle kõik tema pärast olla kuid väga
lv un ir ar no uz par ka lai bet kas tas to arī nav vai ko tā pēc kā tika ja viņš gan bija pie tikai līdz jau ļoti savu
lt ir yra į iš su kad tai bet kaip ar už ne jis buvo o apie per dėl po tik ji savo jau gali nuo šis kuris labai taip
ca de la i el que a en les els per del amb un una no es és al com més o però va ha són aquest aquesta també dels seva seu entre molt fins hi pel quan perquè tot
tl ang ng sa na mga ay at ni si ko hindi para may isang ito kung siya niya kanyang ako mo nang ka lang din mula sila kami dahil
sw ya na wa kwa katika ni za la kuwa cha ili hii au huo kama pia lakini yake hiyo hivyo sana watu bila wake alikuwa mtu
af die en van in is het nie dat te op om vir met hy sy was ek jou ons jy wat ook aan as maar hulle kan sal deur baie word
eu eta da ez du bat ere den dira izan zen hau baina dute egin bere hori edo zuen duen
`

const cyrillic = `
ru и в не на что он с как это по но из у за от так о его к же все она был для бы они мы ты я до если или то только было мне когда уже при может быть есть этот который чтобы
uk і в не на що з як це та до за від так про його у але все він вона для був бути вони ми ти я або якщо при може є цей який щоб тільки було мені коли вже після
bg и в не на че с как това по но от за да са се е той тя до ли го му при или като все му бе беше със които има може това ще само след
sr и у не на да је се за од са као али то би су који ће или из по до што није само може када био
be і ў не на што з як гэта да за ад так пра яго але усе ён яна для быў быць яны мы ты я або калі пры можа
mk и во не на дека со како тоа по но од за да се е тој таа до ли го му при или кој ќе само може кога
kk және бұл мен үшін бір де да болып емес оның деп осы бар көп
`

const arabic = `
ar في من على أن إلى التي عن مع هذا ما هو لا كان الذي هذه بعد كل بين لم قد ذلك أو كما ولا حيث عند وقد
fa و در به از که این را با است برای آن یک خود تا کرد بر هم نیز می شد شده اند ها بود ما
ur اور کے میں کی ہے سے کا کو نے پر یہ کہ ہیں بھی اس تھا ایک جو کر نہیں
`

const devanagari = `
hi के में है की और से को का पर यह ने कि एक भी हैं था इस नहीं तो कर लिए हो
mr आहे आणि च्या मध्ये या हे ते व एक का होते आहेत नाही असे ही तर
ne छ र को मा ले पनि गरेको भएको हो यो एक लागि छन् गर्न तथा
`
