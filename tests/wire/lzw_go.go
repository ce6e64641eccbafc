// Makes lzw_go.json: what Go's compress/lzw writes and reads. `go run lzw_go.go > lzw_go.json`
package main

import (
	"bytes"
	"compress/lzw"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
)

// plain texts are made by the reader of the file as well: Length bytes of a
// linear congruential generator, each its top byte modulo Alphabet.
type encoded struct {
	Seed     uint64 `json:"seed"`
	Alphabet uint64 `json:"alphabet"`
	Length   int    `json:"length"`
	Bytes    int    `json:"stream_bytes"`
	Sha256   string `json:"stream_sha256"`
}

type decoded struct {
	Stream string `json:"stream"` // base64
	Error  bool   `json:"error"`
	Bytes  int    `json:"plain_bytes"`
	Sha256 string `json:"plain_sha256"`
}

type generator uint64

func (g *generator) next() uint64 {
	*g = *g*6364136223846793005 + 1442695040888963407
	return uint64(*g) >> 56
}

func sha(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func plain(seed, alphabet uint64, length int) []byte {
	g, out := generator(seed), make([]byte, length)
	for i := range out {
		out[i] = byte(g.next() % alphabet)
	}
	return out
}

func encode(data []byte) []byte {
	var out bytes.Buffer
	w := lzw.NewWriter(&out, lzw.MSB, 8)
	w.Write(data)
	w.Close()
	return out.Bytes()
}

func decode(stream []byte) decoded {
	got, err := io.ReadAll(lzw.NewReader(bytes.NewReader(stream), lzw.MSB, 8))
	result := decoded{Stream: base64.StdEncoding.EncodeToString(stream), Error: err != nil}
	if err == nil {
		result.Bytes, result.Sha256 = len(got), sha(got)
	}
	return result
}

// codes packs codes as a decoder without CLEAR at 4095 expects them: its table may fill up.
func codes(list []int) []byte {
	var out []byte
	bits, count, width, hi := uint64(0), uint(0), uint(9), 257
	for _, code := range list {
		bits, count = bits<<width|uint64(code), count+width
		for ; count >= 8; count -= 8 {
			out = append(out, byte(bits>>(count-8)))
		}
		if code == 256 {
			width, hi = 9, 257
		} else if hi++; hi == 1<<width {
			if width < 12 {
				width++
			} else {
				hi--
			}
		}
	}
	return append(out, byte(bits<<(8-count)))
}

func full(tail ...int) []byte {
	list := []int{}
	for i := 0; i < 4000; i++ {
		list = append(list, i*7%256)
	}
	return codes(append(list, tail...))
}

func main() {
	var encodings []encoded
	for _, alphabet := range []uint64{1, 2, 3, 16, 256} {
		for _, length := range []int{0, 1, 2, 3, 100, 253, 254, 255, 256, 257, 300, 3836, 3837, 3838, 3839, 3840, 3841, 9000, 40000} {
			stream := encode(plain(alphabet, alphabet, length))
			encodings = append(encodings, encoded{alphabet, alphabet, length, len(stream), sha(stream)})
		}
	}
	decodings := []decoded{
		decode(nil), decode([]byte{0}), decode([]byte{0x80}), decode(codes([]int{257})),
		decode(codes([]int{256, 257})), decode(codes([]int{97, 257})),
		decode(codes([]int{97, 258, 257})), decode(codes([]int{97, 259, 257})),
		decode(codes([]int{256, 258, 257})), decode(codes([]int{258, 257})),
		decode(codes([]int{97, 258, 259, 260, 258, 257})), decode(codes([]int{97, 98, 256, 258, 257})),
		decode(codes([]int{97, 98, 256, 256, 99, 258, 257})), decode(codes([]int{97, 98})),
		decode(full(257)), decode(full(4095, 4095, 4094, 258, 257)), decode(full(4095, 256, 97, 258, 257)),
		decode(full(256, 258, 257)), decode(full()),
	}
	g := generator(7)
	for i := 0; i < 300; i++ {
		stream := encode(plain(uint64(i), []uint64{2, 5, 256}[i%3], int(g.next())))
		for n := g.next()%3 + 1; n > 0 && len(stream) > 0; n-- {
			stream[g.next()%uint64(len(stream))] ^= 1 << (g.next() % 8)
		}
		if g.next()%4 == 0 {
			stream = stream[:g.next()%uint64(len(stream)+1)]
		}
		decodings = append(decodings, decode(append(stream, "tail"[:g.next()%5]...)))
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	out.Encode(map[string]any{"encoded": encodings, "decoded": decodings})
}
