package agent

import (
	"bytes"
	"encoding/binary"
	"image/jpeg"
)

// truncated says what an image lacks of whose file the end is missing, as a copy
// or a download leaves it that was broken off; empty for one that goes to its
// end. It goes by the parts that the format is made of, and decodes no pixels.
func (l *imageLoader) truncated(media string, data []byte) string {
	switch media {
	case "image/png":
		return cutPNG(data)
	case "image/jpeg":
		if missing := cutJPEG(data); missing != "" && !l.decodes(append(bytes.Clone(data), 0xff, 0xd9)) {
			return missing
		}
	case "image/gif":
		return cutGIF(data)
	case "image/webp": // RIFF, and the bytes that follow: https://developers.google.com/speed/webp/docs/riff_container
		if len(data) < 12 || int64(len(data)) < 8+int64(binary.LittleEndian.Uint32(data[4:])) {
			return "bytes that its head speaks of"
		}
	}
	return ""
}

// cutPNG goes from chunk to chunk: https://www.w3.org/TR/png-3/#5Chunk-layout
func cutPNG(data []byte) string {
	for at := int64(8); at+12 <= int64(len(data)); {
		end := at + 12 + int64(binary.BigEndian.Uint32(data[at:]))
		if end <= int64(len(data)) && string(data[at+4:at+8]) == "IEND" {
			return ""
		}
		at = end
	}
	return "the IEND chunk"
}

// cutJPEG goes from marker to marker, ITU T.81, B.1: a segment says how long it is,
// and behind SOS comes what is coded, in which ff 00 is a byte and RST no end.
func cutJPEG(data []byte) string {
	for at := 2; at+1 < len(data); {
		marker := data[at+1]
		switch {
		case data[at] != 0xff: // coded
			next := bytes.IndexByte(data[at:], 0xff)
			if next < 0 {
				next = len(data)
			}
			at += next
		case marker == 0xd9: // EOI
			return ""
		case marker == 0xff: // a byte of filling
			at++
		case marker == 0 || marker == 1 || marker >= 0xd0 && marker <= 0xd8:
			at += 2
		case at+4 <= len(data):
			at += 2 + max(2, int(binary.BigEndian.Uint16(data[at+2:])))
		default:
			at = len(data)
		}
	}
	return "the marker of its end"
}

// decodes reports whether a JPEG is whole but for its end, which some cameras do not
// write.
func (l *imageLoader) decodes(data []byte) bool {
	size, err := jpeg.DecodeConfig(bytes.NewReader(data))
	if err != nil || size.Width > maxPixels/max(1, size.Height) {
		return false
	}
	defer l.memory.acquire(size)()
	_, err = jpeg.Decode(bytes.NewReader(data))
	return err == nil
}

// cutGIF goes from block to block: https://www.w3.org/Graphics/GIF/spec-gif89a.txt.
// The trailer may be missing behind a picture, as some programs leave it out.
func cutGIF(data []byte) string {
	const lack = "some of its picture"
	table := func(flags byte) int { // bytes of a table of colors
		if flags&0x80 == 0 {
			return 0
		}
		return 3 << (flags&7 + 1)
	}
	if len(data) < 13 {
		return lack
	}
	pictures := 0
	for at := 13 + table(data[10]); ; {
		switch {
		case at < len(data) && data[at] == 0x2c && at+10 < len(data): // a picture
			at += 11 + table(data[at+9])
			pictures++
		case at < len(data) && data[at] == 0x21: // an extension
			at += 2
		case at == len(data) && pictures > 0, at < len(data) && data[at] != 0x2c:
			return ""
		default:
			return lack
		}
		for { // sub-blocks, up to an empty one
			if at >= len(data) {
				return lack
			}
			n := int(data[at])
			if at += 1 + n; n == 0 {
				break
			}
		}
	}
}
