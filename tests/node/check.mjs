// What the scripts here have in common: `node CLIENT.mjs BASE SCRIPTED SIDE` prints one JSON line for each check.
// BASE leads to the stand-in for Mistral, SCRIPTED to an upstream that answers what the model's name says, and SIDE is where
// a client tells that upstream what it has received.
export const [BASE, SCRIPTED, SIDE] = process.argv.slice(2);
export const MODEL = "mistral-small-latest";
export const THINKER = "magistral-small-latest";
export const REFUSALS = ["422 wrapped", "422 bare", "400", "401 detail", "401 message", "403", "404", "429", "500", "502 HTML"];

export async function check(name, run) {
  let line;
  try {
    line = { name, outcome: "ok", text: await run() };
  } catch (error) {
    const { message, status, statusCode, param, code, isRetryable } = error;
    line = { name, outcome: error.constructor.name, text: message, status: status ?? statusCode, param, code, isRetryable };
  }
  console.log(JSON.stringify(line));
}

export async function seen(what) {
  if (what) await fetch(SIDE, { method: "POST", body: JSON.stringify({ seen: what }) });
}
