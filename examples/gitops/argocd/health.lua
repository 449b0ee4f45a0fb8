-- How an object stands, for Argo CD, by the same rules as kstatus. Lua 5.1 without string and math: Argo CD gives no more.
local status = obj.status or {}
local found = {}
for _, condition in ipairs(status.conditions or {}) do
  found[condition.type] = condition
end
local ready = found.Ready or {}

local function is(name)
  return found[name] ~= nil and found[name].status == "True"
end

local function stands(health, otherwise)
  local message = ready.message
  if message == nil or message == "" then
    message = otherwise
  end
  return {status = health, message = message}
end

if obj.metadata.deletionTimestamp ~= nil then
  local waits = ready.reason == "Deleting" or ready.reason == "DeletionBlocked"
  return {status = "Progressing", message = waits and ready.message or "is being deleted"}
end
-- What an older spec came to says nothing about this one.
if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "its present spec was not looked at yet"}
end
if is("Stalled") then
  return stands("Degraded", "somebody has to mend something")
end
-- It stands still because somebody wants it to, and goes on when they say so.
if ready.reason == "Suspended" or ready.reason == "NodeMaintenance" then
  return stands("Suspended", ready.reason)
end
if is("Ready") and not is("Reconciling") then
  return stands("Healthy", "")
end
return stands("Progressing", "nothing is known of it yet")
