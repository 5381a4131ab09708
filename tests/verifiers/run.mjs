// Gives requests to a verifier: node run.mjs VERIFIER.mjs CASES.json (secret|publicKey).
//
// VERIFIER.mjs exports `genuine(key, headers, body)`, as docs/verifying.md shows it. Prints what it
// says of each case, as JSON: {"name": true, …}. An error of the verifier ends the program: to
// refuse is to return false.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [verifier, cases, key] = process.argv.slice(2);
const { genuine } = await import(pathToFileURL(verifier));
const said = {};
for (const request of JSON.parse(readFileSync(cases, "utf8"))) {
  said[request.name] = genuine(request[key], request.headers, Buffer.from(request.body, "base64"));
}
console.log(JSON.stringify(said));
