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

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server cannot be reached. What you see may be out of date.");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const sentence = SENTENCES[response.status] ?? said.detail ?? `The server answered ${response.status}.`;
  throw new Refused(response.status, sentence, said.error);
}

export const read = (path) => ask(path, {}).then((response) => response.json());

export const fetchPicture = (path, signal) => ask(path, { signal }).then((response) => response.blob());

export function write(path, body) {
  const headers = { "Content-Type": "application/json", "X-Fracture-Worklist": "1" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) }).then((response) => response.json());
}
