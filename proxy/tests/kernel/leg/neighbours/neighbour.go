// A client on a plain connection or a node on net/http in Go: the runtime's edge-triggered epoll, and
// sendfile for what comes from a file.
//
// neighbour node PATTERN      says where it listens, until stdin ends
// neighbour client PATTERN    reads a conversation a line (plan.rs), until stdin ends
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	patience = 20 * time.Second
	atATime  = 4
)

var (
	path    = os.Args[2]
	pattern []byte
)

// The node.

func serve(to http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	parts := append(strings.Split(request.URL.Path, "/"), "")
	size, _ := strconv.Atoi(parts[2])
	switch parts[1] {
	case "give":
		// By its range, and with sendfile.
		http.ServeFile(to, request, path)
	case "rest":
		to.Write(pattern[:size/2])
		to.(http.Flusher).Flush()
		to.Write(pattern[size/2 : size])
	case "cut":
		to.Header().Set("content-length", parts[2])
		to.Write(pattern[:size/2])
		to.(http.Flusher).Flush()
		conn, _, err := to.(http.Hijacker).Hijack()
		if err == nil {
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	default:
		to.Header().Set("content-length", strconv.Itoa(len(body)))
		to.Write(body)
	}
}

func node() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("listens on %s\n", listener.Addr())
	go http.Serve(listener, http.HandlerFunc(serve))
	io.Copy(io.Discard, os.Stdin)
}

// The client.

type talk struct {
	conn *net.TCPConn
	from *bufio.Reader
}

func (t *talk) ask(method, what string, size int, fields string) error {
	target := "/" + what
	if what != "echo" {
		target += "/" + strconv.Itoa(size)
	}
	if what == "give" {
		fields += fmt.Sprintf("range: bytes=0-%d\r\n", size-1)
	}
	_, err := fmt.Fprintf(t.conn, "%s %s HTTP/1.1\r\nhost: a\r\n%s\r\n", method, target, fields)
	return err
}

func (t *talk) head() (*http.Response, error) {
	response, err := http.ReadResponse(t.from, nil)
	if err == nil && response.StatusCode != 200 && response.StatusCode != 206 {
		return nil, errors.New(response.Status)
	}
	return response, err
}

func (t *talk) expect(size, pause int) error {
	response, err := t.head()
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(pause) * time.Millisecond)
	body, err := io.ReadAll(response.Body)
	if err == nil && !bytes.Equal(body, pattern[:size]) {
		return fmt.Errorf("%d other bytes for %d", len(body), size)
	}
	return err
}

func (t *talk) askAndExpect(what string, size, pause int) error {
	if err := t.ask("GET", what, size, ""); err != nil {
		return err
	}
	return t.expect(size, pause)
}

func (t *talk) upload(size, piece int, field string, isChunked bool) error {
	if err := t.ask("POST", "echo", size, field); err != nil {
		return err
	}
	for at := 0; at < size; at += piece {
		end := at + piece
		if end > size {
			end = size
		}
		part := net.Buffers{pattern[at:end]}
		if isChunked {
			part = net.Buffers{[]byte(fmt.Sprintf("%x\r\n", end-at)), pattern[at:end], []byte("\r\n")}
		}
		// With writev, if it is more than one.
		if _, err := part.WriteTo(t.conn); err != nil {
			return err
		}
	}
	if isChunked {
		if _, err := io.WriteString(t.conn, "0\r\n\r\n"); err != nil {
			return err
		}
	}
	return t.expect(size, 0)
}

func (t *talk) half(size int) error {
	if err := t.ask("GET", "give", size, ""); err != nil {
		return err
	}
	if err := t.conn.CloseWrite(); err != nil {
		return err
	}
	if err := t.expect(size, 0); err != nil {
		return err
	}
	if count, err := t.from.Read(make([]byte, 1)); count != 0 || err != io.EOF {
		return fmt.Errorf("%d bytes more than were asked for: %v", count, err)
	}
	return nil
}

func (t *talk) reset(size int) error {
	if err := t.ask("GET", "give", size, ""); err != nil {
		return err
	}
	response, err := t.head()
	if err != nil {
		return err
	}
	begun := make([]byte, size/2)
	if _, err := io.ReadFull(response.Body, begun); err != nil {
		return err
	}
	if !bytes.Equal(begun, pattern[:size/2]) {
		return errors.New("other bytes before a reset")
	}
	return t.conn.SetLinger(0)
}

func (t *talk) cut(size int) error {
	if err := t.ask("GET", "cut", size, ""); err != nil {
		return err
	}
	response, err := http.ReadResponse(t.from, nil)
	if err != nil || response.StatusCode == 502 {
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			return err
		}
		return nil
	}
	begun, err := io.ReadAll(response.Body)
	if err == nil || len(begun) > size/2 || !bytes.Equal(begun, pattern[:len(begun)]) {
		return fmt.Errorf("%d bytes of half of %d: %v", len(begun), size, err)
	}
	return nil
}

func (t *talk) step(verb string, a, b int) error {
	t.conn.SetDeadline(time.Now().Add(patience))
	switch verb {
	case "get":
		return t.askAndExpect("give", a, b)
	case "rest":
		return t.askAndExpect("rest", a, 0)
	case "post":
		return t.upload(a, b, fmt.Sprintf("content-length: %d\r\n", a), false)
	case "chunked":
		return t.upload(a, b, "transfer-encoding: chunked\r\n", true)
	case "pause":
		time.Sleep(time.Duration(a) * time.Millisecond)
		return nil
	case "half":
		return t.half(a)
	case "reset":
		return t.reset(a)
	case "cut":
		return t.cut(a)
	}
	return errors.New("unknown: " + verb)
}

func converse(line string) error {
	words := strings.Fields(line)
	conn, err := net.Dial("tcp", words[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	t := talk{conn.(*net.TCPConn), bufio.NewReader(conn)}
	for _, step := range words[2:] {
		parts := append(strings.Split(step, ":"), "0", "0")
		a, _ := strconv.Atoi(parts[1])
		b, _ := strconv.Atoi(parts[2])
		if err := t.step(parts[0], a, b); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
	}
	return nil
}

func client() {
	lines := make(chan string)
	var group sync.WaitGroup
	for i := 0; i < atATime; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for line := range lines {
				seed := strings.Fields(line)[1]
				if err := converse(line); err != nil {
					fmt.Println("failed", seed, err)
				} else {
					fmt.Println("done", seed)
				}
			}
		}()
	}
	all := bufio.NewScanner(os.Stdin)
	for all.Scan() {
		lines <- all.Text()
	}
	close(lines)
	group.Wait()
}

func main() {
	var err error
	if pattern, err = os.ReadFile(path); err != nil {
		panic(err)
	}
	if os.Args[1] == "node" {
		node()
	} else {
		client()
	}
}
