// openai, OpenAI's own SDK.
import OpenAI from "openai";
import { BASE, MODEL, REFUSALS, SCRIPTED, THINKER, check, seen } from "./check.mjs";

const client = new OpenAI({ baseURL: BASE, apiKey: "none", maxRetries: 0 });
const scripted = new OpenAI({ baseURL: SCRIPTED, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Hi" }];
const parameters = { type: "object", properties: { city: { type: "string", enum: ["Paris"] } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const asking = { role: "user", content: 'Call weather {"city": "Paris"}' };
const call = { id: "call_fromAnotherProvider1", type: "function", function: { name: "weather", arguments: "{}" } };
const begun = [
  ...messages,
  { role: "assistant", content: null, tool_calls: [call] },
  { role: "tool", tool_call_id: call.id, content: "12 degrees" },
];

async function gather(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

await check("plain", async () => {
  const answer = await client.chat.completions.create({
    model: MODEL,
    messages: [{ role: "developer", content: "Be brief." }, ...messages],
    max_completion_tokens: 50,
    seed: 1,
    user: "someone",
    store: false,
    frequency_penalty: 0.5,
  });
  return answer.choices[0].message.content;
});

await check("changes", async () => {
  const { response } = await client.chat.completions.create({ model: MODEL, messages, user: "someone" }).withResponse();
  return response.headers.get("mistral-filter-changes");
});

await check("request id", async () => {
  const { response, request_id } = await client.chat.completions.create({ model: MODEL, messages }).withResponse();
  return Boolean(request_id) && request_id === response.headers.get("mistral-correlation-id");
});

await check("stream", async () => {
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = await gather(await client.chat.completions.create({ model: MODEL, messages, ...options }));
  const texts = chunks.map((chunk) => chunk.choices[0].delta.content);
  return { text: texts.join(""), several: texts.filter(Boolean).length > 1, usage: chunks.at(-1).usage.total_tokens > 0 };
});

await check("arrival", async () => {
  for await (const chunk of await scripted.chat.completions.create({ model: "lockstep", messages, stream: true })) {
    await seen(chunk.choices[0].delta.content);
  }
});

await check("tool loop", async () => {
  const first = await client.chat.completions.create({ model: MODEL, messages: begun, tools });
  const more = [...begun, first.choices[0].message, asking];
  const second = (await client.chat.completions.create({ model: MODEL, messages: more, tools })).choices[0].message;
  const result = { role: "tool", tool_call_id: second.tool_calls[0].id, content: "9 degrees" };
  const third = await client.chat.completions.create({ model: MODEL, messages: [...more, second, result], tools });
  return [first.choices[0].message.content, second.tool_calls[0].function, third.choices[0].message.content];
});

await check("tool runner", async () => {
  const run = client.chat.completions.runTools({
    model: MODEL,
    messages: [asking],
    stream: true,
    tools: [{ type: "function", function: { name: "weather", parameters, parse: JSON.parse, function: ({ city }) => `9 in ${city}` } }],
  });
  return await run.finalContent();
});

await check("embeddings as floats", async () => {
  const answer = await client.embeddings.create({ model: "mistral-embed", input: ["one", "two"], encoding_format: "float" });
  return answer.data.map((item) => item.embedding);
});

await check("dimensions", async () => {
  const answer = await client.embeddings.create({ model: "codestral-embed", input: "one", dimensions: 5 });
  return answer.data[0].embedding.length;
});

await check("embeddings", async () => {
  const answer = await client.embeddings.create({ model: "mistral-embed", input: ["one", "two"] });
  return answer.data.map((item) => Array.from(item.embedding));
});

await check("models", async () => (await gather(await client.models.list())).some((model) => model.id === MODEL));

await check("reasoning", async () => {
  const { content, reasoning_content } = (await client.chat.completions.create({ model: THINKER, messages })).choices[0].message;
  return { content, reasoning_content };
});

await check("reasoning in a stream", async () => {
  const chunks = await gather(await client.chat.completions.create({ model: THINKER, messages, stream: true }));
  const all = (key) => chunks.map((chunk) => chunk.choices[0].delta[key] ?? "").join("");
  return { content: all("content"), reasoning_content: all("reasoning_content") };
});

const flat = [{ type: "function", name: "weather", parameters, strict: true }];

await check("responses", async () => {
  const options = { instructions: "Be brief.", store: true, truncation: "auto", user: "someone", include: ["reasoning.encrypted_content"] };
  const { output_text, status, usage } = await client.responses.create({ model: MODEL, input: "Hi", ...options });
  return { output_text, status, usage: usage.total_tokens > 0 };
});

await check("responses in a stream", async () => {
  const stream = client.responses.stream({ model: MODEL, input: "Hi" });
  const texts = [];
  stream.on("response.output_text.delta", (event) => texts.push(event.delta));
  const { output_text } = await stream.finalResponse();
  return { output_text, several: texts.length > 1, same: texts.join("") === output_text };
});

await check("responses tool loop", async () => {
  const input = [asking];
  const first = await client.responses.create({ model: MODEL, input, tools: flat });
  const { name, arguments: args, call_id } = first.output[0];
  input.push(...first.output, { type: "function_call_output", call_id, output: "9 degrees" });
  const second = await client.responses.create({ model: MODEL, input, tools: flat });
  return [name, args, second.output_text];
});

await check("responses reasoning", async () => {
  const stream = client.responses.stream({ model: MODEL, input: "Hi", reasoning: { effort: "high", summary: "auto" } });
  const { output, output_text } = await stream.finalResponse();
  return [output[0].type, output[0].content[0].text, output_text];
});

await check("responses state", () => client.responses.create({ model: MODEL, input: "Hi", previous_response_id: "resp_1" }));
await check("no such path", () => client.completions.create({ model: MODEL, prompt: "Hi" }));
await check("conversation refused", () => client.chat.completions.create({ model: MODEL, messages: [] }));
await check("token ids", () => client.embeddings.create({ model: "mistral-embed", input: [1, 2, 3] }));
await check("wrong type", () => client.chat.completions.create({ model: MODEL, messages, temperature: "hot" }));
await check("empty key", () =>
  client.chat.completions.create({ model: MODEL, messages }, { headers: { Authorization: "Bearer" } }),
);
for (const model of REFUSALS) {
  await check(`error ${model}`, () => scripted.chat.completions.create({ model, messages }));
}
