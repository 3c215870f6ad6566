// Reads an API key from stdin and prints the verdict of Keyward. Exits with 0 if the key is VALID.
import { readFileSync } from "node:fs";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

interface Answer {
  verdict: string;
  accountId: string;
}

const proto = new URL("../../proto", import.meta.url).pathname;
const definition = loadSync("keyward/v1/api_key_service.proto", { includeDirs: [proto], enums: String, defaults: true });
const loaded = grpc.loadPackageDefinition(definition) as any;

const endpoint = new URL(process.env.KEYWARD_ENDPOINT?.split(",")[0].trim() || "http://127.0.0.1:50051");
const authority = process.env.KEYWARD_CA_FILE?.trim();
const tls = grpc.credentials.createSsl(authority ? readFileSync(authority) : null);
const transport = endpoint.protocol === "https:" ? tls : grpc.credentials.createInsecure();
const client = new loaded.keyward.v1.ApiKeyService(endpoint.host, transport);

const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${readFileSync(process.env.KEYWARD_TOKEN_FILE!.trim(), "utf8").trim()}`);
const request = { apiKey: readFileSync(0, "utf8").trim() };

client.verify(request, metadata, { deadline: Date.now() + 2000 }, (error: Error | null, answer: Answer) => {
  // An error concerns the call. It says nothing about the key.
  if (error) throw error;
  console.log(answer.verdict, answer.accountId);
  client.close();
  process.exitCode = answer.verdict === "VERDICT_VALID" ? 0 : 2;
});
