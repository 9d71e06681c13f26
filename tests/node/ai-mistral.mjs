// @ai-sdk/mistral, which speaks Mistral's own dialect.
import { createMistral } from "@ai-sdk/mistral";
import { checks } from "./ai.mjs";
import { BASE, SCRIPTED } from "./check.mjs";

const provider = (baseURL) => createMistral({ baseURL, apiKey: "none" });
await checks(provider(BASE).chat, provider(BASE).embedding, provider(SCRIPTED).chat);
