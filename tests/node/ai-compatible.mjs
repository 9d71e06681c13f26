// @ai-sdk/openai-compatible
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { checks } from "./ai.mjs";
import { BASE, SCRIPTED } from "./check.mjs";

const provider = (baseURL) => createOpenAICompatible({ name: "mistral", baseURL, apiKey: "none", includeUsage: true });
await checks(provider(BASE).chatModel, provider(BASE).embeddingModel, provider(SCRIPTED).chatModel);
