// @openai/agents speaks Responses: `node agents.mjs BASE_URL`, started by run.py. One line for each check; status 1 if one failed.
import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { Agent, run, setDefaultOpenAIClient, setTracingDisabled, tool, webSearchTool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";

const model = "mistral-small-latest";
const said = "This is the mistral-filter sandbox: no model was asked.";
const came = `${said} The result of the tool has arrived.`;
const asking = 'Call weather {"city": "Paris"}';
const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;

setTracingDisabled(true);
setDefaultOpenAIClient(new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 }));

const weather = tool({
  name: "weather",
  description: "The weather in a city.",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => `9 degrees in ${city}`,
});
const agent = (options) => new Agent({ name: "assistant", instructions: "Be brief.", model, ...options });
const answer = async (asked, options) => (await run(agent(options), asked)).finalOutput;

async function check(name, expected, get) {
  let got;
  try {
    got = await get();
  } catch (error) {
    got = `${error.constructor.name}: ${error.message}`;
  }
  const right = isDeepStrictEqual(got, expected);
  if (!right) process.exitCode = 1;
  console.log(right ? "ok  " : "FAIL", name, right ? "" : JSON.stringify(got));
}

console.log("@openai/agents", version("@openai/agents"), "with openai", version("openai"));
await check("plain", said, () => answer("Hi"));
await check("a tool turn", came, () => answer(asking, { tools: [weather] }));
await check("a streamed tool turn", [true, came], async () => {
  const result = await run(agent({ tools: [weather] }), asking, { stream: true });
  let pieces = 0;
  for await (const event of result) if (event.type === "raw_model_stream_event" && event.data.type === "output_text_delta") pieces++;
  await result.completed;
  return [pieces > 3, result.finalOutput];
});
await check("a second turn", said, async () => {
  const { history } = await run(agent({ tools: [weather] }), asking);
  return answer([...history, { role: "user", content: "And now?" }], { tools: [weather] });
});
const modelSettings = { reasoning: { effort: "high", summary: "auto" }, store: true, truncation: "auto" };
await check("reasoning with a tool turn", came, () => answer(asking, { tools: [weather], modelSettings }));
await check("an output type", { city: "sandbox" }, () => answer("Paris", { outputType: z.object({ city: z.string() }) }));
await check("a hosted tool, which goes", said, () => answer("Hi", { tools: [webSearchTool()] }));
