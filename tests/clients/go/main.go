// Go's net/http: a transport for each goroutine. ../README.md has the variables that are read here and the lines that are
// written.
package main

import (
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// How long a request may take before it is an error.
const patience = 10 * time.Second

func main() {
	rand.Seed(time.Now().UnixNano())
	fmt.Printf("library net/http %s\n", runtime.Version())
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for worker := 0; worker < number("CLIENT_CONNECTIONS"); worker++ {
		workers.Add(1)
		go func(worker int) {
			defer workers.Done()
			work(worker, stop)
		}(worker)
	}
	io.Copy(io.Discard, os.Stdin)
	close(stop)
	workers.Wait()
}

func work(worker int, stop <-chan struct{}) {
	client := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	url := "http://" + os.Getenv("CLIENT_TARGET") + "/"
	burst := number("CLIENT_BURST")
	from, to := number("CLIENT_THINK_MIN_MS"), number("CLIENT_THINK_MAX_MS")
	next := 0
	for stopped := silence(stop, 0, to); !stopped; stopped = silence(stop, from, to) {
		for n := 0; n < burst; n++ {
			id := fmt.Sprintf("%d-%d", worker, next)
			next++
			fmt.Printf("sent %s\n", id)
			answer, err := ask(client, url+id)
			switch {
			case err != nil:
				fmt.Printf("error %s %s\n", id, strings.ReplaceAll(err.Error(), "\n", " "))
			case answer != id:
				fmt.Printf("error %s answered %q\n", id, answer)
			default:
				fmt.Printf("ok %s\n", id)
			}
		}
	}
}

func ask(client *http.Client, url string) (string, error) {
	response, err := client.Post(url, "", nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return string(answer), err
}

// Waits, and tells whether the client shall end.
func silence(stop <-chan struct{}, from, to int) bool {
	select {
	case <-stop:
		return true
	case <-time.After(time.Duration(from+rand.Intn(to-from+1)) * time.Millisecond):
		return false
	}
}

func number(variable string) int {
	value, err := strconv.Atoi(os.Getenv(variable))
	if err != nil {
		panic(fmt.Sprintf("%s: %v", variable, err))
	}
	return value
}
