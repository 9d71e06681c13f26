// @ai-sdk/openai: chat completions are what `.chat(model)` asks for; the model by itself speaks Responses.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { checks } from "./ai.mjs";
import { BASE, MODEL, SCRIPTED, check } from "./check.mjs";

const provider = (baseURL) => createOpenAI({ baseURL, apiKey: "none" });
await checks(provider(BASE).chat, provider(BASE).embedding, provider(SCRIPTED).chat);

const model = provider(BASE)(MODEL);
const once = { maxRetries: 0, onError: () => {} };
const tools = {
  weather: tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.enum(["Paris"]) }),
    execute: async ({ city }) => `9 degrees in ${city}`,
  }),
};
const asking = { prompt: 'Call weather {"city": "Paris"}', tools, stopWhen: stepCountIs(3) };

await check("responses", async () => {
  const { text, finishReason, usage } = await generateText({ model, system: "Be brief.", prompt: "Hi", ...once });
  return { text, finishReason, usage: usage.totalTokens > 0 };
});

await check("responses in a stream", async () => {
  const stream = streamText({ model, prompt: "Hi", ...once });
  const texts = [];
  for await (const text of stream.textStream) texts.push(text);
  return { text: texts.join(""), several: texts.length > 1, finishReason: await stream.finishReason };
});

await check("responses tool loop", async () => {
  const { steps, text } = await generateText({ model, ...asking, ...once });
  return [steps.flatMap((step) => step.toolResults.map((result) => result.output)), text];
});

await check("responses tool loop in a stream", async () => {
  const stream = streamText({ model, ...asking, ...once });
  for await (const part of stream.fullStream) if (part.type === "error") throw part.error;
  return [(await stream.steps).length, await stream.text];
});

await check("responses reasoning", async () => {
  const options = { openai: { reasoningEffort: "high", reasoningSummary: "auto", forceReasoning: true } };
  return (await generateText({ model, prompt: "Hi", providerOptions: options, ...once })).text;
});
