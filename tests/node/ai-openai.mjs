// @ai-sdk/openai: chat completions are what `.chat(model)` asks for; without it it would be /v1/responses.
import { createOpenAI } from "@ai-sdk/openai";
import { checks } from "./ai.mjs";
import { BASE, MODEL, SCRIPTED, check } from "./check.mjs";
import { generateText } from "ai";

const provider = (baseURL) => createOpenAI({ baseURL, apiKey: "none" });
await checks(provider(BASE).chat, provider(BASE).embedding, provider(SCRIPTED).chat);
await check("responses", () => generateText({ model: provider(BASE)(MODEL), prompt: "Hi", maxRetries: 0 }));
