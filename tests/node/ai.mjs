// The checks of the AI SDK, the same for each of its providers.
import { embedMany, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { MODEL, REFUSALS, THINKER, check, seen } from "./check.mjs";

// `chat` and `embedding` make a model of a name, at the stand-in; `scripted` a chat model at the scripted upstream.
export async function checks(chat, embedding, scripted) {
  const model = chat(MODEL);
  const once = { maxRetries: 0 };
  const tools = {
    weather: tool({
      description: "The weather in a city.",
      inputSchema: z.object({ city: z.enum(["Paris"]) }),
      execute: async ({ city }) => `9 degrees in ${city}`,
    }),
  };
  const input = { city: "Paris" };
  const begun = [
    { role: "user", content: "Hi" },
    { role: "assistant", content: [{ type: "tool-call", toolCallId: "call_fromAnotherProvider1", toolName: "weather", input }] },
    {
      role: "tool",
      content: [
        {
          type: "tool-result",
          toolCallId: "call_fromAnotherProvider1",
          toolName: "weather",
          output: { type: "text", value: "12 degrees" },
        },
      ],
    },
  ];
  const asking = 'Call weather {"city": "Paris"}';
  const fails = (error) => {
    throw error;
  };

  await check("plain", async () => {
    const options = { seed: 1, maxOutputTokens: 50, frequencyPenalty: 0.5, system: "Be brief.", prompt: "Hi" };
    const { text, finishReason, usage } = await generateText({ model, ...options, ...once });
    return { text, finishReason, usage: usage.totalTokens > 0 };
  });

  await check("stream", async () => {
    const stream = streamText({ model, prompt: "Hi", onError: () => {}, ...once });
    const texts = [];
    for await (const text of stream.textStream) texts.push(text);
    return { text: texts.join(""), several: texts.length > 1, finishReason: await stream.finishReason };
  });

  await check("arrival", async () => {
    const stream = streamText({ model: scripted("lockstep"), prompt: "Hi", onError: () => {}, ...once });
    for await (const text of stream.textStream) await seen(text);
  });

  await check("tool loop", async () => {
    const first = await generateText({ model, messages: begun, tools, ...once });
    const messages = [...begun, ...first.response.messages, { role: "user", content: asking }];
    const second = await generateText({ model, messages, tools, stopWhen: stepCountIs(3), ...once });
    return [first.text, second.steps.flatMap((step) => step.toolCalls.map((call) => [call.toolName, call.input])), second.text];
  });

  await check("tool loop in a stream", async () => {
    const stream = streamText({ model, prompt: asking, tools, stopWhen: stepCountIs(3), onError: () => {}, ...once });
    let text = "";
    for await (const part of stream.fullStream) {
      if (part.type === "error") fails(part.error);
      if (part.type === "text-delta") text += part.text;
    }
    return text;
  });

  await check("PDF", async () => {
    const file = { type: "file", mediaType: "application/pdf", filename: "a.pdf", data: new Uint8Array([37, 80, 68, 70]) };
    const messages = [{ role: "user", content: [{ type: "text", text: "Hi" }, file] }];
    return (await generateText({ model, messages, ...once })).text;
  });

  await check("embeddings", async () => {
    const { embeddings } = await embedMany({ model: embedding("mistral-embed"), values: ["one", "two"], ...once });
    return embeddings;
  });

  await check("reasoning", async () => {
    const { text, reasoningText } = await generateText({ model: chat(THINKER), prompt: "Hi", ...once });
    return { text, reasoningText };
  });

  await check("reasoning in a stream", async () => {
    const stream = streamText({ model: chat(THINKER), prompt: "Hi", onError: () => {}, ...once });
    const text = await stream.text;
    return { text, reasoningText: await stream.reasoningText };
  });

  for (const name of REFUSALS) {
    await check(`error ${name}`, () => generateText({ model: scripted(name), prompt: "Hi", ...once }));
  }
  await check("error in a stream", async () => {
    const stream = streamText({ model: scripted("422 wrapped"), prompt: "Hi", onError: () => {}, ...once });
    for await (const part of stream.fullStream) if (part.type === "error") fails(part.error);
  });
}
