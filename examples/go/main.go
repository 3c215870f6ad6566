// Command verify reads an API key from stdin and prints the verdict of Keyward. It exits with 0 if the key
// is VALID, and with 2 otherwise.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	keyward "keyward.example/verify/gen/keyward/v1"
)

func main() {
	endpoint, _, _ := strings.Cut(setting("KEYWARD_ENDPOINT"), ",")
	scheme, address, _ := strings.Cut(endpoint, "://")
	transport := insecure.NewCredentials()
	if scheme == "https" {
		transport = must(credentials.NewClientTLSFromFile(setting("KEYWARD_CA_FILE"), ""))
	}
	token := strings.TrimSpace(string(must(os.ReadFile(setting("KEYWARD_TOKEN_FILE")))))
	key := strings.TrimSpace(string(must(io.ReadAll(os.Stdin))))
	connection := must(grpc.NewClient(address, grpc.WithTransportCredentials(transport)))

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	// An error concerns the call. It says nothing about the key.
	answer := must(keyward.NewApiKeyServiceClient(connection).Verify(ctx, &keyward.VerifyRequest{ApiKey: key}))
	fmt.Println(answer.GetVerdict(), answer.GetAccountId())
	if answer.GetVerdict() != keyward.Verdict_VERDICT_VALID {
		os.Exit(2)
	}
}

func setting(name string) string {
	return strings.TrimSpace(os.Getenv(name))
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
