// Use Vercel's AI SDK, as in https://ai-sdk.dev/providers/openai-compatible-providers and …/providers/ai-sdk-providers/openai.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";

const City = z.object({
  name: z.enum(["Paris", "Rome"]),
  capital: z.boolean(),
  visits: z.number().int().min(0).max(9),
  sights: z.array(z.object({ name: z.enum(["Louvre", "Colosseum"]) })).min(1).max(2),
});

const getWeather = tool({
  description: "Get the weather of a city.",
  inputSchema: z.object({ city: z.enum(["Paris", "Rome"]) }),
  execute: async ({ city }) => `It is sunny in ${city}.`,
});

const providers = {
  "openai-compatible": (url) => {
    const provider = createOpenAICompatible({
      name: "runtime",
      baseURL: url,
      apiKey: "none",
      includeUsage: true,
      supportsStructuredOutputs: true,
    });
    return { chat: provider.chatModel, completion: provider.completionModel, embedding: provider.embeddingModel };
  },
  "openai-chat": (url) => {
    const provider = createOpenAI({ baseURL: url, apiKey: "none" });
    return { chat: provider.chat, completion: provider.completion, embedding: provider.embedding };
  },
  "openai-responses": (url) => ({ chat: createOpenAI({ baseURL: url, apiKey: "none" }).responses }),
};

// Responses are kept nowhere on the server; other providers do not read this.
const providerOptions = { openai: { store: false, parallelToolCalls: false } };

export async function chat({ url, provider, model, question }) {
  const { text, finishReason, usage } = await generateText({
    model: providers[provider](url).chat(model),
    prompt: question,
    temperature: 0,
    maxOutputTokens: 24,
    providerOptions: { openai: { store: false } },
  });
  return { text, finishReason, usage };
}

export async function stream({ url, provider, model, question }) {
  const answer = streamText({
    model: providers[provider](url).chat(model),
    prompt: question,
    temperature: 0,
    maxOutputTokens: 24,
    providerOptions: { openai: { store: false } },
  });
  const deltas = [];
  for await (const delta of answer.textStream) deltas.push(delta);
  return { deltas, text: await answer.text, finishReason: await answer.finishReason, usage: await answer.usage };
}

const forceFirst = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" });

export async function tools({ url, provider, model }) {
  const { steps, text } = await generateText({
    model: providers[provider](url).chat(model),
    prompt: "Weather in Paris?",
    tools: { getWeather },
    stopWhen: isStepCount(2),
    prepareStep: forceFirst,
    temperature: 0,
    maxOutputTokens: 60,
    providerOptions,
  });
  return { text, steps: steps.map(({ finishReason, toolCalls, toolResults }) => ({ finishReason, toolCalls, toolResults })) };
}

export async function streamedTools({ url, provider, model }) {
  const answer = streamText({
    model: providers[provider](url).chat(model),
    prompt: "Weather in Paris?",
    tools: { getWeather },
    stopWhen: isStepCount(2),
    prepareStep: forceFirst,
    temperature: 0,
    maxOutputTokens: 60,
    providerOptions,
  });
  const steps = await answer.steps;
  return {
    text: await answer.text,
    steps: steps.map(({ finishReason, toolCalls, toolResults }) => ({ finishReason, toolCalls, toolResults })),
  };
}

export async function structured({ url, provider, model }) {
  const { output } = await generateText({
    model: providers[provider](url).chat(model),
    prompt: "Describe Paris.",
    output: Output.object({ schema: City }),
    temperature: 0,
    maxOutputTokens: 160,
    providerOptions: { openai: { store: false } },
  });
  return output;
}

export async function completion({ url, provider, model, prompt }) {
  const { text } = await generateText({
    model: providers[provider](url).completion(model),
    prompt,
    temperature: 0,
    maxOutputTokens: 12,
  });
  return text;
}

export async function embeddings({ url, provider, model, texts }) {
  const { embeddings } = await embedMany({ model: providers[provider](url).embedding(model), values: texts });
  return embeddings;
}
