// How fast Tessera's POSIX driver makes entries durable: what KNHK's own log is measured beside.
//
// Many adders add one random entry after the other, each waiting for its index. One line of JSON says what came out.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

// What is measured, as the caller asks for it.
type settings struct {
	dir        string
	run        time.Duration
	adders     int
	payload    int
	batch      uint
	batchAge   time.Duration
	checkpoint time.Duration
}

// What came out.
type result struct {
	WritesPerSecond float64 `json:"writesPerSecond"`
	P50Ms           float64 `json:"p50Ms"`
	P99Ms           float64 `json:"p99Ms"`
}

func main() {
	var s settings
	flag.StringVar(&s.dir, "dir", "", "an empty directory on the disk to measure")
	flag.DurationVar(&s.run, "run", 5*time.Second, "how long to add entries")
	flag.IntVar(&s.adders, "adders", 1024, "entries under way at a time")
	flag.IntVar(&s.payload, "payload", 300, "bytes of an entry")
	flag.UintVar(&s.batch, "batch", tessera.DefaultBatchMaxSize, "entries of a batch")
	flag.DurationVar(&s.batchAge, "batch-age", tessera.DefaultBatchMaxAge, "how long a batch waits to be full")
	flag.DurationVar(&s.checkpoint, "checkpoint", tessera.DefaultCheckpointInterval, "time between checkpoints")
	flag.Parse()
	r, err := measure(context.Background(), s)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tessera:", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, "tessera:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, s settings) (result, error) {
	if s.dir == "" || s.adders < 1 || s.payload < 1 {
		return result{}, fmt.Errorf("-dir, -adders and -payload are needed")
	}
	appender, shutdown, err := open(ctx, s)
	if err != nil {
		return result{}, err
	}
	began := time.Now()
	times, err := saturate(ctx, appender, s, began.Add(s.run))
	took := time.Since(began)
	if err != nil {
		return result{}, err
	}
	if err := shutdown(ctx); err != nil {
		return result{}, err
	}
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	at := func(q float64) float64 {
		return times[min(int(q*float64(len(times))), len(times)-1)].Seconds() * 1e3
	}
	return result{
		WritesPerSecond: float64(len(times)) / took.Seconds(),
		P50Ms:           at(0.5),
		P99Ms:           at(0.99),
	}, nil
}

func open(ctx context.Context, s settings) (*tessera.Appender, func(context.Context) error, error) {
	secret, _, err := note.GenerateKey(rand.Reader, "knhk.dev/bench")
	if err != nil {
		return nil, nil, err
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		return nil, nil, err
	}
	driver, err := posix.New(ctx, posix.Config{Path: s.dir})
	if err != nil {
		return nil, nil, err
	}
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithBatching(s.batch, s.batchAge).
		WithCheckpointInterval(s.checkpoint).
		WithPushback(uint(2 * s.adders))
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, options)
	return appender, shutdown, err
}

// saturate keeps s.adders entries under way until the end, and returns how long each took.
func saturate(ctx context.Context, appender *tessera.Appender, s settings, end time.Time) ([]time.Duration, error) {
	var (
		mu    sync.Mutex
		all   []time.Duration
		first error
		group sync.WaitGroup
	)
	for range s.adders {
		group.Go(func() {
			times, err := add(ctx, appender, s.payload, end)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, times...)
			if first == nil {
				first = err
			}
		})
	}
	group.Wait()
	if first == nil && len(all) == 0 {
		first = fmt.Errorf("no entry became durable within the time")
	}
	return all, first
}

// add adds one entry after the other.
func add(ctx context.Context, appender *tessera.Appender, payload int, end time.Time) ([]time.Duration, error) {
	var times []time.Duration
	entry := make([]byte, payload)
	if _, err := rand.Read(entry); err != nil {
		return nil, err
	}
	for n := uint64(0); time.Now().Before(end); n++ {
		// Each is another one, as receipts are.
		for i := range 8 {
			entry[i%len(entry)] = byte(n >> (8 * i))
		}
		began := time.Now()
		if _, err := appender.Add(ctx, tessera.NewEntry(append([]byte(nil), entry...)))(); err != nil {
			return nil, err
		}
		times = append(times, time.Since(began))
	}
	return times, nil
}
