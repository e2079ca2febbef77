// Requests to the server that this page came from, wherever a gateway put it.

import { tab } from "./store.js";

const BASE = new URL("../", import.meta.url);
const TRIES = 5;
const LONGEST_WAIT_MS = 30_000;

let asked = 0;
performance.setResourceTimingBufferSize(5000);

/** An answer that is no result: the server's own message, its code, and what it is about. */
export class ServerError extends Error {
  constructor(status, error = {}) {
    super(error.message || "");
    this.status = status; // 0: no answer
    this.code = error.code ?? "";
    this.param = error.param ?? null;
  }
}

export const keepKey = (key) => tab.set("relsdk.key", key);
export const keptKey = () => tab.get("relsdk.key");

/**
 * Ask the server; where it is busy (429) or starting (503 with Retry-After), ask again when it says so.
 *
 * Returns {data, timing: {total, parts}}: milliseconds as the page saw them, and the server's own.
 */
export async function ask(path, { body, signal, onWait = () => {} } = {}) {
  for (let attempt = 1; ; attempt++) {
    const address = new URL(path, BASE);
    address.hash = String((asked += 1)); // not sent: the name of this request among the browser's own timings
    const started = performance.now();
    const response = await send(address, body, signal);
    const data = await content(response);
    const total = roundTrip(address) ?? performance.now() - started;
    const timing = { total, parts: serverTiming(response.headers.get("server-timing")) };
    if (response.ok && data !== null) return { data, timing };
    const wait = retryAfter(response);
    if (wait === null || attempt === TRIES) throw errorOf(response, data);
    onWait({ milliseconds: wait, attempt, tries: TRIES, status: response.status });
    await pause(wait, signal);
  }
}

async function send(address, body, signal) {
  const headers = { accept: "application/json" };
  const key = keptKey();
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const options = { method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store" };
  if (body !== undefined) options.body = JSON.stringify(body);
  try {
    return await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0); // no answer: the network, or a header that no browser sends
  }
}

/** Milliseconds from request to answer as the network saw them: drawing the page does not count. */
const roundTrip = (address) => performance.getEntriesByName(address.href).at(-1)?.duration ?? null;

async function content(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return null; // a gateway's page, not the server's answer
  }
}

function errorOf(response, data) {
  const error = data && typeof data.error === "object" ? data.error : { message: data?.message };
  return new ServerError(response.status, { ...error, message: error?.message || response.statusText });
}

/** Return the milliseconds to wait before the next try; null where none is due. */
function retryAfter(response) {
  const seconds = response.headers.get("retry-after");
  if (response.status !== 429 && !(response.status === 503 && seconds !== null)) return null;
  const milliseconds = Number(response.headers.get("retry-after-ms")) || Number(seconds) * 1000 || 1000;
  return Math.min(Math.max(milliseconds, 50), LONGEST_WAIT_MS);
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** Read a Server-Timing header: "queue;dur=0.1, run;dur=2" -> {queue: 0.1, run: 2}. */
export function serverTiming(header) {
  const parts = {};
  for (const part of (header ?? "").split(",")) {
    const [name, ...rest] = part.split(";").map((piece) => piece.trim());
    const duration = rest.find((piece) => piece.startsWith("dur="));
    if (name && duration) parts[name] = Number(duration.slice(4)) || 0;
  }
  return parts;
}
