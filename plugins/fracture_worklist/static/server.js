// Every request to the server. What goes wrong is thrown as a sentence for the reader.

const SENTENCES = {
  401: "Your session has ended. Sign in to Airflow again; nothing that you typed here was saved.",
  403: "You may look at the worklist, but not change it.",
};

export class Refused extends Error {
  constructor(status, sentence, kind = "") {
    super(sentence);
    this.status = status;
    this.kind = kind;
  }
}

const LIMIT_MS = { read: 20_000, write: 30_000, picture: 60_000 };

// The body of the answer, by `take`. A server that does not answer within the limit is one that cannot be reached.
async function ask(path, { limitMs, signal, ...options }, take) {
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), limitMs);
  const givenUp = () => limit.abort();
  signal?.addEventListener("abort", givenUp);
  try {
    const response = await fetch(path, { credentials: "same-origin", signal: limit.signal, ...options });
    if (response.ok) return await take(response);
    const said = await response.json().catch(() => ({}));
    const sentence = SENTENCES[response.status] ?? said.detail ?? `The server answered ${response.status}.`;
    throw new Refused(response.status, sentence, said.error);
  } catch (error) {
    if (error instanceof Refused) throw error;
    if (signal?.aborted) throw new DOMException("Nobody waits for it any more.", "AbortError");
    throw new Refused(0, limit.signal.aborted ? "The server does not answer." : "The server cannot be reached.");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", givenUp);
  }
}

export const read = (path) => ask(path, { limitMs: LIMIT_MS.read }, (response) => response.json());

export const fetchPicture = (path, signal) => ask(path, { signal, limitMs: LIMIT_MS.picture }, (response) => response.blob());

export function write(path, body) {
  const headers = { "Content-Type": "application/json", "X-Fracture-Worklist": "1" };
  const options = { method: "POST", headers, body: JSON.stringify(body), limitMs: LIMIT_MS.write };
  return ask(path, options, (response) => response.json());
}
