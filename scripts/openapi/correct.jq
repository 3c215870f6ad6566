# Corrects what the generator of the OpenAPI document leaves out or gets wrong.
#
# Input: the document. `$image`: the compiled proto files as JSON. `$version`: the version of Keyward.

def by(key; value): map({key: key, value: value}) | from_entries;

# Whether a message is a request or a part of one.
def is_sent: test("(Request|ImportKey)$");

# The lines of a comment after the first begin with a space.
def unindented: gsub("\n "; "\n");

[$image[0].file[] | select(.package == "keyward.v1")] as $files

# Message, then the JSON name of a field: its descriptor.
| ([$files[].messageType[]?] | by("keyward.v1." + .name; .field // [] | by(.jsonName; .))) as $fields

# Operation: the message of its request.
| ([$files[].service[]? | .name as $service | .method[] | .service = $service]
    | by(.service + "_" + .name; .inputType | ltrimstr("."))) as $requests

# Enum: a list of its values with their comments.
| ([$files[] | .sourceCodeInfo.location as $comments | .enumType // [] | to_entries[] | .key as $index
    | .value | .values = ([.value | to_entries[] | .key as $value
        | ($comments[] | select(.path == [5, $index, 2, $value]).leadingComments) as $comment
        | "- `" + .value.name + "`:" + ($comment | rtrimstr("\n") | gsub("\n"; "\n "))]
        | join("\n"))]
    | by("keyward.v1." + .name; .values)) as $enums

| .info.version = $version
| walk(if type == "object" and (.description | type) == "string" then .description |= unindented else . end)

| .components.schemas |= with_entries(.key as $name
    | if $enums[$name] then .value.description += "\n\n" + $enums[$name]
      elif $fields[$name] then
        (.value.properties | values) |= with_entries($fields[$name][.key] as $field
          | del(.value.title, .value.additionalProperties.title?)
          # The format is the type. A response has 64-bit integers as strings.
          | if $field.type | test("INT(32|64)$") then
              .value.format = ($field.type | ascii_downcase | ltrimstr("type_"))
              | .value.type = (if .value.format | endswith("64") then "string" else "integer" end)
            else . end
          | if $field.options.debugRedact then
              .value.format = "password"
              | .value[if $name | is_sent then "writeOnly" else "readOnly" end] = true
            else . end)
        # A later version may add fields to a response.
        | if $name | is_sent | not then del(.value.additionalProperties) else . end
      else . end)

# A path parameter is named by its last part: two paths that differ only in a name are not allowed.
| .paths |= reduce to_entries[] as $path ({};
    .[$path.key | gsub("\\{[^}]*\\.(?<name>[^.}]+)\\}"; "{\(.name)}")] += $path.value)

| .components.schemas as $schemas
| .paths[] |= map_values(
    $requests[.operationId | sub("[0-9]+$"; "")] as $request
    | if $request then
        .summary |= gsub("\n "; " ")
        | .responses.default = {"$ref": "#/components/responses/Error"}
        | if .requestBody then
            .requestBody.required = true
            | .requestBody.content[].schema |= {"$ref"}
          else . end
        # A query parameter is like the field of the request. A secret is never one.
        | .parameters |= (. // [] | map(
            if .in == "query" then
              $schemas[$request].properties[.name] as $field
              | .description = $field.description
              | .schema = ($field | del(.description))
              | select($field.format != "password")
            else
              .name |= sub(".*\\."; "")
              | del(.schema.title)
            end))
        | if .parameters == [] then del(.parameters) else . end
      else . end)

# Definitions to which nothing refers, and then those to which only they referred.
| until(
    [.. | objects | .["$ref"]? // empty | ltrimstr("#/components/schemas/")] as $used
    | all(.components.schemas | keys[]; IN($used[]));
    [.. | objects | .["$ref"]? // empty | ltrimstr("#/components/schemas/")] as $used
    | .components.schemas |= with_entries(select(.key | IN($used[]))))
