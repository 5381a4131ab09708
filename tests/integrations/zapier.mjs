// Plays the part of Zapier's platform for one step of an app's life:
//
//     node zapier.mjs APP.cjs (test|performList|performSubscribe|performUnsubscribe|perform) < bundle.json
//
// The app finds what Zapier gives it: `z.request` with its middlewares, `params`, JSON bodies,
// `throwForStatus` (called for it unless it says otherwise), and the bundle. What it returns is held
// to Zapier's rules and printed as JSON. A broken rule, or an error of the app, ends this with 1.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [file, step] = process.argv.slice(2);
const app = createRequire(import.meta.url)(file);
const bundle = { authData: {}, inputData: {}, ...JSON.parse(readFileSync(0, "utf8")) };
const [trigger] = Object.values(app.triggers);

function rule(holds, what) {
  if (!holds) throw new Error(`Zapier would refuse this: ${what}`);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

async function request(asked) {
  let all = { method: "GET", headers: {}, ...(typeof asked === "string" ? { url: asked } : asked) };
  all.headers = { "User-Agent": "Zapier", Accept: "application/json", ...all.headers };
  for (const middleware of app.beforeRequest ?? []) all = await middleware(all, z, bundle);
  const url = new URL(all.url);
  for (const [name, value] of Object.entries(all.params ?? {})) url.searchParams.set(name, value);
  const body = isObject(all.body) ? JSON.stringify(all.body) : all.body;
  if (isObject(all.body)) all.headers["Content-Type"] = "application/json; charset=utf-8";
  const answer = await fetch(url, { method: all.method, headers: all.headers, body, redirect: "follow" });
  const content = await answer.text();
  const response = {
    status: answer.status,
    content,
    headers: answer.headers,
    request: all,
    throwForStatus() {
      if (this.status >= 400) throw new Error(`${all.method} ${url} was answered ${this.status}: ${content}`);
    },
  };
  if (/\bjson\b/.test(answer.headers.get("content-type") ?? "")) response.data = JSON.parse(content);
  if (!all.skipThrowForStatus) response.throwForStatus();
  return response;
}

const z = { request, console: { log() {} }, errors: {} };

const steps = {
  async test() {
    const response = await request(app.authentication.test);
    return { status: response.status };
  },
  async performList() {
    const items = await trigger.operation.performList(z, bundle);
    rule(Array.isArray(items) && items.length > 0, "performList returns a list that is not empty");
    rule(items.every(isObject), "performList returns objects");
    return items;
  },
  async performSubscribe() {
    rule(bundle.targetUrl, "a subscription has a targetUrl");
    const data = await trigger.operation.performSubscribe(z, bundle);
    rule(isObject(data) && Object.keys(data).length > 0, "what performSubscribe returns is all that is kept");
    return data;
  },
  async performUnsubscribe() {
    rule(isObject(bundle.subscribeData), "what was kept is handed back");
    return (await trigger.operation.performUnsubscribe(z, bundle)) ?? {};
  },
  async perform() {
    rule(isObject(bundle.cleanedRequest), "a hook's body is a JSON object");
    const items = await trigger.operation.perform(z, bundle);
    rule(Array.isArray(items) && items.every(isObject), "perform returns a list of objects");
    return items;
  },
};

rule(/^[a-zA-Z]+[a-zA-Z0-9_]*$/.test(trigger.key), "a trigger's key is a word");
rule(trigger.operation.type === "hook", "an instant trigger is of type hook");
rule(/^Triggers when .+\.$/.test(trigger.display.description), "a description begins with 'Triggers when' and ends with a period");
rule(isObject(trigger.operation.sample), "a trigger has a sample");
console.log(JSON.stringify(await steps[step]()));
