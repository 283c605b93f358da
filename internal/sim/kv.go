package sim

import "encoding/binary"

// block is how many tokens a block of the KV cache holds, as in vLLM.
const block = 16

// prefix reads a sequence of tokens and makes a hash of each full block of it,
// which stands for the block and all before it. The zero value has read nothing.
type prefix struct {
	h      uint64
	tokens int
	blocks []uint64 // nil where nobody wants them
	keep   bool
}

func (p *prefix) token(t uint64) {
	p.h = (p.h ^ t) * 0x9fb21c651e98df25
	p.h ^= p.h >> 29
	p.tokens++
	if p.tokens%block == 0 && p.keep {
		p.blocks = append(p.blocks, mix(p.h))
	}
}

// text reads the tokens of a text.
func (p *prefix) text(s string) {
	if !p.keep {
		p.tokens += tokensOf(s)
		return
	}
	for len(s) >= 4 {
		p.token(uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24)
		s = s[4:]
	}
	if len(s) > 0 {
		var last [4]byte
		copy(last[:], s)
		p.token(uint64(binary.LittleEndian.Uint32(last[:])) | 1<<40)
	}
}

// A message has 3 tokens before it and one behind.

func (p *prefix) open(role string) {
	h := hashOf(role)
	for i := range uint64(3) {
		p.token(h + i)
	}
}

func (p *prefix) close() { p.token(1 << 41) }

// kv is the KV cache of an engine: how many blocks are in use, and which idle
// ones still hold a prefix.
type kv struct {
	total   int
	private int // blocks of one sequence alone
	shared  int // blocks in known that are in use
	known   map[uint64]*kvBlock
	idle    kvBlock // ring: the one used last is behind it
	idles   int
}

type kvBlock struct {
	hash       uint64
	users      int
	prev, next *kvBlock // among the idle
}

func newKV(tokens int) *kv {
	k := &kv{total: tokens / block, known: map[uint64]*kvBlock{}}
	k.idle.prev, k.idle.next = &k.idle, &k.idle
	return k
}

// used is how many blocks running sequences hold.
func (k *kv) used() int { return k.private + k.shared }

// free is how many blocks can be had.
func (k *kv) free() int { return k.total - k.used() }

// share is how much of the cache is in use.
func (k *kv) share() float64 { return min(1, float64(k.used())/float64(k.total)) }

// hit takes the known blocks at the beginning of hashes into use, at most n,
// and returns how many there were.
func (k *kv) hit(hashes []uint64, n int) int {
	for i, h := range hashes[:min(n, len(hashes))] {
		b, ok := k.known[h]
		if !ok {
			return i
		}
		k.use(b)
	}
	return min(n, len(hashes))
}

// peek counts what hit would find, and how many of these are idle.
func (k *kv) peek(hashes []uint64, n int) (hits, idle int) {
	for i, h := range hashes[:min(n, len(hashes))] {
		b, ok := k.known[h]
		if !ok {
			return i, idle
		}
		if b.users == 0 {
			idle++
		}
	}
	return min(n, len(hashes)), idle
}

func (k *kv) use(b *kvBlock) {
	if b.users++; b.users == 1 {
		k.shared++
		b.prev.next, b.next.prev = b.next, b.prev
		b.prev, b.next = nil, nil
		k.idles--
	}
}

// release gives blocks back that hit or publish took. The last ones are
// forgotten first.
func (k *kv) release(hashes []uint64) {
	for i := len(hashes) - 1; i >= 0; i-- {
		b := k.known[hashes[i]]
		if b == nil || b.users == 0 {
			continue
		}
		if b.users--; b.users == 0 {
			k.shared--
			k.rest(b)
		}
	}
	k.trim()
}

// rest puts b among the idle, as the one used last.
func (k *kv) rest(b *kvBlock) {
	b.prev, b.next = &k.idle, k.idle.next
	b.prev.next, b.next.prev = b, b
	k.idles++
}

// publish makes private blocks known that their sequence has computed, and
// returns how many of hashes, from the first, are now shared. Where another
// sequence was faster the rest stays private.
func (k *kv) publish(hashes []uint64) int {
	for i, h := range hashes {
		if b, ok := k.known[h]; ok {
			if b.users == 0 { // one that idles is the same: this takes its place
				k.use(b)
				k.private--
				continue
			}
			return i
		}
		k.known[h] = &kvBlock{hash: h, users: 1}
		k.shared++
		k.private--
	}
	return len(hashes)
}

// remember makes blocks known that nobody uses any more, as far as there is
// room.
func (k *kv) remember(hashes []uint64) {
	for i := len(hashes) - 1; i >= 0; i-- {
		if _, ok := k.known[hashes[i]]; ok || k.used() >= k.total {
			continue
		}
		b := &kvBlock{hash: hashes[i]}
		k.known[b.hash] = b
		k.rest(b)
	}
	k.trim()
}

// trim forgets idle blocks that there is no room for.
func (k *kv) trim() {
	for k.idles > 0 && k.used()+k.idles > k.total {
		b := k.idle.prev
		b.prev.next, b.next.prev = b.next, b.prev
		delete(k.known, b.hash)
		k.idles--
	}
}
